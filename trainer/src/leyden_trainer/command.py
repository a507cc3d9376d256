"""`leyden train`: reads the configuration, makes or finds the run's folder, and trains until the end or a signal."""

import asyncio
import importlib.util
import os
import signal
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from leyden.errors import BadConfig
from leyden_trainer.config import TrainConfig, load_config

__all__ = ["train"]


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The run's TOML file.", show_default=False)],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest unfinished run of this name.")
    ] = False,
    show_verl: Annotated[
        bool, typer.Option("--print-verl-config", help="Print the configuration that verl would get, and end.")
    ] = False,
) -> None:
    """Train the model behind an agent. Any setting may follow as a flag: --trainer.steps=4 --seed=1"""
    settings = load_config(config, context.args)
    if show_verl:
        from leyden_trainer.verl.session import print_verl_config

        print_verl_config(settings, settings.output / settings.name, Console(soft_wrap=True))
        return
    folder = _unfinished(settings) if resume else _fresh(settings)
    code = asyncio.run(_run(settings, folder, Console(soft_wrap=True)))
    if code:
        raise typer.Exit(code)


def _runs(config: TrainConfig) -> list[Path]:
    """The folders NAME, NAME-2, NAME-3, ... that exist, in the order in which they were made."""
    found: list[Path] = []
    while (folder := _numbered(config, len(found) + 1)).exists():
        found.append(folder)
    return found


def _numbered(config: TrainConfig, number: int) -> Path:
    return config.output / (config.name if number == 1 else f"{config.name}-{number}")


def _fresh(config: TrainConfig) -> Path:
    folder = _numbered(config, len(_runs(config)) + 1)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder


def _unfinished(config: TrainConfig) -> Path:
    for folder in reversed(_runs(config)):
        if not (folder / "summary.json").exists():
            _check_same(config, folder)
            return folder
    raise BadConfig(f"no unfinished run named {config.name} in {config.output}; leave out --resume to start one")


def _check_same(config: TrainConfig, folder: Path) -> None:
    """A run goes on as it began; only its length, and where the policy is served, may change."""
    before = TrainConfig.model_validate_json((folder / "config.json").read_text(encoding="utf-8"))
    free = {"steps", "stop_at", "evaluate_every", "micro_batch_tokens", "host", "port"}
    for name, value in before.model_dump(exclude={"trainer": free}).items():
        now = config.model_dump(exclude={"trainer": free})[name]
        if now != value:
            raise BadConfig(
                f"{folder} was begun with {name} = {value}, got {now}; resume it as it was, or start a new run"
            )


def _backend_of(config: TrainConfig) -> Any:
    """The session of the backend that the configuration names; importing one takes seconds."""
    if config.trainer.backend == "local":
        from leyden_trainer.session import run_training

        return run_training
    if importlib.util.find_spec("verl") is None:
        raise BadConfig('trainer.backend = "verl" needs `pip install leyden-trainer[verl]` in this environment')
    from leyden_trainer.verl.session import run_training as run_verl

    return run_verl


async def _run(config: TrainConfig, folder: Path, console: Console) -> int:
    """Run until the end or a signal; returns the exit status."""
    run_training = _backend_of(config)

    server_key, judge_key = os.environ.get("LEYDEN_KEY"), os.environ.get("LEYDEN_JUDGE_KEY")
    running = run_training(config, folder, console, server_key=server_key, judge_key=judge_key)
    task = asyncio.ensure_future(running)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        console.print(f"{number.name}: stopping; what was saved stays (a second signal ends at once)")
        task.cancel()
        loop.remove_signal_handler(number)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        console.print(f"stopped; go on with --resume (the run is in {folder})")
        return 128 + received[0]
    return 0
