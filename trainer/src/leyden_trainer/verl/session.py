"""One run on verl: model, Leyden server, verl's trainer on Ray, and a runner once the policy is served.

Unlike the local backend's session, the loop is not here: verl's `fit` runs in an actor of Ray's.
"""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import ray
import torch
from omegaconf import OmegaConf
from ray.exceptions import RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from leyden.client import HttpStore
from leyden.errors import BadConfig, LeydenError, TrainingStopped
from leyden.server.listening import is_loopback
from leyden.tasks import read_tasks
from leyden_trainer.assignment import configured_method
from leyden_trainer.children import Server, opened_server, started_runner
from leyden_trainer.config import TrainConfig
from leyden_trainer.experience import hold_policies, is_policy, take_over
from leyden_trainer.folders import CACHE
from leyden_trainer.local.source import model_folder
from leyden_trainer.screen import Screen
from leyden_trainer.summary import Summary, draw_curve, write_summary
from leyden_trainer.tasks import check_apart
from leyden_trainer.verl.export import exported
from leyden_trainer.verl.runners import ray_runners

__all__ = ["prepare_environment", "print_verl_config", "run_training", "started_ray"]

_EXTERNAL = ("leyden_trainer.verl.policy_loss", "leyden_trainer.verl.critic")
LOOPBACK = "127.0.0.2"
"""Ray replaces 127.0.0.1 by an address that other machines reach; the rest of 127/8 it leaves alone."""
LOOK_S = 0.5
"""How often is looked whether the policy is served."""


def print_verl_config(config: TrainConfig, folder: Path, console: Console) -> None:
    """The whole configuration that verl would get, as YAML.

    Raises:
        BadConfig: a setting is one that this backend does not know.
    """
    on_cpu = prepare_environment()
    _check_honoured(config)
    console.print(OmegaConf.to_yaml(_verl_config(config, folder, Path(config.model.path), on_cpu)), markup=False)


async def run_training(
    config: TrainConfig, folder: Path, console: Console, *, server_key: str | None, judge_key: str | None
) -> Summary:
    """Train as `config` says, in `folder`; a folder with a checkpoint is resumed. Keys as for the local backend.

    Raises:
        LeydenError: bad input is refused before anything is started.
    """
    on_cpu = prepare_environment()
    check_apart(read_tasks(config.tasks.train), read_tasks(config.tasks.heldout))
    _check_honoured(config)
    screen = Screen(console, config.trainer)
    screen.say(f"run {folder.name}: verl on {'the CPU' if on_cpu else 'CUDA'}, model {config.model.path}")
    model = await asyncio.to_thread(model_folder, config.model.path, cache=CACHE)
    settings = _verl_config(await asyncio.to_thread(_with_critic, config), folder, model, on_cpu)
    began = time.perf_counter()
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(opened_server(config, folder, server_key))
        screen.say(f"watch it at {server.dashboard}")
        store = HttpStore(server.url, server.key)
        try:
            await store.check()
            await (hold_policies(store) if config.server else take_over(store, folder.name))
        finally:
            await store.close()
        await stack.enter_async_context(started_ray(config, settings))
        from leyden_trainer.verl.task_runner import Job, TaskRunner

        job = Job(config, folder, server.url, server.key, judge_key, on_cpu)
        actor: Any = ray.remote(num_cpus=1)(TaskRunner)
        # On this node: the run's folder is here.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        runner = actor.options(scheduling_strategy=here).remote(job)
        training = asyncio.ensure_future(_awaited(runner.run.remote(settings)))
        stack.callback(training.cancel)
        await _served(server, training)
        died = None
        if config.agent.runners == 1:
            died = await stack.enter_async_context(started_runner(config, server, folder))
        if config.agent.runners == "ray":
            died = await stack.enter_async_context(ray_runners(config, server, folder))
        await _until_done(training, died)
    missing = await exported(folder)
    summary = _summary(config, folder, time.perf_counter() - began)
    write_summary(folder / "summary.json", summary)
    screen.summary(summary, folder)
    if missing:
        screen.warn(f"no model to use or to evaluate: {missing}")
    return summary


def _check_honoured(config: TrainConfig) -> None:
    """Refuse what this backend would have to ignore."""
    heads = configured_method(config).heads
    ignored = {
        'critic.kind = "head" (verl\'s critic is a model of its own: set "model")': heads
        and config.critic.kind == "head",
        "critic.backbone": heads and config.critic.backbone > 0,
        "warm_start (make it with the local backend; checkpoints/warm is then a model.path)": config.warm_start
        is not None,
        "model.chat_template (put it into the model folder as chat_template.jinja)": config.model.chat_template
        is not None,
        "model.layers": config.model.layers is not None,
        "trainer.stop_at": config.trainer.stop_at is not None,
        "trainer.verl.trainer.val_before_train = false (what a run gains is measured against it)": (
            config.trainer.verl.get("trainer", {}).get("val_before_train") is False
        ),
    }
    names = [name for name, present in ignored.items() if present]
    if names:
        raise BadConfig(
            f'trainer.backend = "verl" does not know {"; ".join(names)}; take it out, or use the local backend'
        )


def prepare_environment() -> bool:
    """Set what verl reads from the environment, before its first import; returns whether this is a CPU's."""
    on_cpu = not torch.cuda.is_available()
    modules = [*_EXTERNAL]
    if on_cpu:
        modules.insert(0, "leyden_trainer.verl.cpu")
        os.environ |= {
            "VERL_PLATFORM": "cpu",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    os.environ |= {
        "VERL_USE_EXTERNAL_MODULES": ",".join(modules),
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return on_cpu


def _with_critic(config: TrainConfig) -> TrainConfig:
    """With the folder of the critic's model, if it has one of its own."""
    if config.critic.path is None:
        return config
    critic = config.critic.model_copy(update={"path": str(model_folder(config.critic.path, cache=CACHE))})
    return config.model_copy(update={"critic": critic})


def _verl_config(config: TrainConfig, folder: Path, model: Path, on_cpu: bool) -> Any:
    from leyden_trainer.verl.configuration import verl_config

    num_heldout = len(read_tasks(config.tasks.heldout))
    return verl_config(config, folder=folder, model=model, num_heldout=num_heldout, on_cpu=on_cpu)


@contextlib.asynccontextmanager
async def started_ray(config: TrainConfig, settings: Any) -> AsyncGenerator[None]:
    """Joined if it is named, else started on loopback, also where another one runs already; on a CPU with one logical
    GPU for each worker that verl places."""
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    environment = get_ppo_ray_runtime_env(settings)
    own = ("VERL_", "VLLM_", "RAY_", "OMP_", "TOKENIZERS_", "WANDB_")
    environment["env_vars"] |= {k: v for k, v in os.environ.items() if k.startswith(own)}
    environment["env_vars"]["TRANSFER_QUEUE_ENABLE"] = "1"
    given: dict[str, Any] = (
        {"address": config.trainer.ray_address} if config.trainer.ray_address else _own(config, settings)
    )
    ray.init(runtime_env=environment, **given)
    try:
        _check_devices(settings)
        yield
    finally:
        ray.shutdown()


def _check_devices(settings: Any) -> None:
    """What workers run on is decided here, where the run was started."""
    devices = [name for name in ray.cluster_resources() if name.startswith("accelerator_type:")]
    if devices and settings.trainer.device == "cpu":
        raise BadConfig(
            f"this machine has no CUDA GPU and the Ray cluster has ({', '.join(devices)}): start the run on one of its "
            "nodes with a GPU"
        )


def _own(config: TrainConfig, settings: Any) -> dict[str, Any]:
    """On loopback, but for a Leyden server elsewhere, which has to reach vLLM."""
    host = LOOPBACK if is_loopback(config.trainer.host) else config.trainer.host
    given: dict[str, Any] = {"address": "local", "include_dashboard": False, "_node_ip_address": host}
    if settings.trainer.device == "cpu":
        workers = settings.trainer.n_gpus_per_node
        given |= {"num_cpus": 16, "num_gpus": workers, "object_store_memory": 500_000_000}
    return given


async def _served(server: Server, training: asyncio.Future[None]) -> None:
    """Until the policy is, or training ended. Agents of a run that goes on have work at once, and limits of time."""
    store = HttpStore(server.url, server.key)
    try:
        while not training.done() and not any(e.state == "ready" and is_policy(e) for e in await store.endpoints()):
            await asyncio.wait({training}, timeout=LOOK_S)
    finally:
        await store.close()


async def _until_done(training: asyncio.Future[None], runner_died: asyncio.Task[str] | None) -> None:
    waiting: set[asyncio.Future[Any]] = {training, runner_died} if runner_died else {training}
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if runner_died is not None and runner_died.done() and not training.done():
        raise TrainingStopped(runner_died.result())
    await training


async def _awaited(running: Any) -> None:
    try:
        await running
    except RayTaskError as error:
        if isinstance(error.cause, LeydenError):
            raise error.cause from error
        raise


def _summary(config: TrainConfig, folder: Path, seconds_total: float) -> Summary:
    """From the journal alone, so that a resumed run counts what came before."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    heldout = [(r["step"], r["heldout"]) for r in records if "heldout" in r]
    steps = [r for r in records if "reward" in r]
    best = max(heldout, key=lambda pair: pair[1])
    draw_curve(
        folder / "curve.png", f"{folder.name}: {config.model.path}", [(r["step"], r["reward"]) for r in steps], heldout
    )
    return Summary(
        eval_base=None,
        eval_before=heldout[0][1],
        eval_after=heldout[-1][1],
        eval_best=best[1],
        best_step=best[0],
        steps=steps[-1]["step"] if steps else 0,
        rollouts=int(sum(r["leyden/rollouts"] for r in steps)),
        seconds=sum(r["seconds"] for r in steps),
        seconds_total=seconds_total,
        seconds_warm_start=0.0,
        model=config.model.path,
        seed=config.seed,
        run=folder.name,
    )
