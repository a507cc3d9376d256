"""What a training step on verl costs more with Leyden's rollouts than with verl's own agent loop.

One training in which both take turns (verl_parts/alternating.py): the same model, prompts, workers and vLLM server, and
answers of one length, since the model's end token is none of its vocabulary. The model is the real small one, or an
untrained one of half a million parameters (`--model tiny`), whose step is hardly more than what surrounds the model.
The agents' own time is the CPU time of a process in which the same agents run alone, straight at vLLM. The verdict is
by CPU seconds of all processes, the median over neighbouring pairs: the clock of a step also counts what others do on
the same cores, and is printed beside it.
"""

# pyright: reportMissingImports=false
# verl is in the environment of `make test-verl`, which `make bench-verl_overhead` takes.

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_parts.endless import SMALL, TINY, make_endless_model

from leyden_trainer.children import opened_server, started_runner
from leyden_trainer.config import TrainConfig, make_config
from leyden_trainer.testing import lookup_tasks
from leyden_trainer.verl.session import prepare_environment, started_ray

PARTS = Path(__file__).resolve().with_name("verl_parts")
LIMIT = 0.05
TASKS, ROLLOUTS = 8, 8
"""Of a step: different tasks, and rollouts of each."""
CONTEXT = 512
WARM_UP = 1
"""So many pairs of steps come first and are not counted."""
LEAST_CPU_S = 0.05
"""A process that took less has no row."""
PHASES = {
    "gen": "rollouts",
    "old_log_prob": "log probabilities",
    "adv": "credit",
    "update_actor": "update",
    "update_weights": "weights to vLLM",
}


def prepare(folder: Path, model: str, *, pairs: int, tokens: int) -> TrainConfig:
    """Model, tasks and configuration, in `folder`; all tasks are in each step, so both loops have the same prompts."""
    make_endless_model(folder / "model", model)
    tasks = [{"messages": t.first_messages, "max_tokens": tokens} for t in itertools.islice(lookup_tasks(0), TASKS + 1)]
    for name, part in (("train", tasks[:TASKS]), ("heldout", tasks[TASKS:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(task) + "\n" for task in part))
    (folder / "run").mkdir()
    own = str(PARTS / "own.py")
    verl = {
        "trainer": {"save_freq": -1, "test_freq": -1, "val_before_train": False},
        "data": {"custom_cls": {"path": own, "name": "Prompts"}, "max_response_length": tokens},
        # Its own reward, and weights for the loss, which is Leyden's in both: they cost a multiplication.
        "reward": {"num_workers": 1, "custom_reward_function": {"path": own, "name": "compute_score"}},
        "algorithm": {"rollout_correction": {"rollout_is": "token"}},
    }
    values = {
        "model": {"path": "model", "context_length": CONTEXT},
        "agent": {"function": f"{PARTS / 'agent.py'}:solve", "concurrency": TASKS * ROLLOUTS},
        "reward": {"function": f"{PARTS / 'agent.py'}:score"},
        "tasks": {"train": "train.jsonl", "heldout": "heldout.jsonl"},
        "sampling": {"max_tokens": tokens},
        "optimizer": {"learning_rate": 1e-9, "warmup_steps": 0},
        "trainer": {
            "backend": "verl",
            "steps": 2 * (WARM_UP + pairs) + 1,  # a step ends when the next begins
            "tasks_per_step": TASKS,
            "rollouts_per_task": ROLLOUTS,
            "verl": verl,
        },
    }
    return make_config(values, folder=folder, source="verl_overhead")


async def run(config: TrainConfig, folder: Path) -> list[dict[str, Any]]:
    """Train; what was measured of each step."""
    os.environ |= {
        "OVERHEAD_TASKS": str(folder / "train.jsonl"),
        "OVERHEAD_PID": str(os.getpid()),
        "PYTHONPATH": str(PARTS),
    }
    on_cpu = prepare_environment()
    import ray
    from alternating import SideBySide

    from leyden_trainer.verl.configuration import verl_config
    from leyden_trainer.verl.task_runner import Job

    run_folder = folder / "run"
    settings = verl_config(config, folder=run_folder, model=folder / "model", num_heldout=1, on_cpu=on_cpu)
    async with (
        opened_server(config, run_folder, None) as server,
        started_runner(config, server, run_folder),
        started_ray(config, settings),
    ):
        actor: Any = ray.remote(num_cpus=1)(SideBySide)
        job = Job(config, run_folder, server.url, server.key, None, on_cpu)
        await actor.remote(job).run.remote(settings)
    return [json.loads(line) for line in (run_folder / "steps.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Loop:
    """Medians over the steps of one of the loops."""

    seconds: float
    phases: Mapping[str, float]
    cpu: Mapping[str, float]
    """By process."""

    @classmethod
    def of(cls, steps: Sequence[Mapping[str, Any]]) -> "Loop":
        phases = {name: statistics.median(step["phases"][name] for step in steps) for name in PHASES}
        processes = sorted({name for step in steps for name in step["cpu"]})
        cpu = {name: statistics.median(step["cpu"].get(name, 0.0) for step in steps) for name in processes}
        return cls(statistics.median(step["seconds"] for step in steps), phases, cpu)


def clock_seconds(step: Mapping[str, Any]) -> float:
    """Of a step."""
    return step["seconds"]


def cpu_seconds(step: Mapping[str, Any]) -> float:
    """Of all processes in a step."""
    return sum(step["cpu"].values())


def compared(
    verl: Sequence[Mapping[str, Any]],
    leyden: Sequence[Mapping[str, Any]],
    of: Callable[[Mapping[str, Any]], float],
    own: float,
) -> tuple[list[float], float]:
    """What Leyden's step takes more, pair by pair, and the median of that less the agents' own; shares of verl's."""
    usual = statistics.median(map(of, verl))
    more = [(of(b) - of(a)) / usual for a, b in zip(verl, leyden, strict=True)]
    return more, statistics.median(more) - own / usual


def report(steps: Sequence[Mapping[str, Any]], tokens: int) -> bool:
    """Print the table and the verdict; whether it is met."""
    by = {who: [s for s in steps if s["who"] == who][WARM_UP:] for who in ("verl", "leyden", "agents")}
    sampled = {step["tokens"] for who in ("verl", "leyden") for step in by[who]}
    if sampled != {TASKS * ROLLOUTS * tokens}:
        sys.exit(f"steps of {sorted(sampled)} tokens, expected {TASKS * ROLLOUTS * tokens} in each: not comparable")
    verl, leyden = Loop.of(by["verl"]), Loop.of(by["leyden"])
    alone, own, exact = (statistics.median(step[name] for step in by["agents"]) for name in ("seconds", "cpu", "exact"))
    print(f"\n{len(by['verl'])} steps of each, {TASKS} prompts x {ROLLOUTS} answers x {tokens} tokens\n")
    print("| medians of a step | verl's own loop | Leyden | more |\n|---|---|---|---|")
    rows = [("seconds", verl.seconds, leyden.seconds)]
    rows += [(f"of them {PHASES[name]}", verl.phases[name], leyden.phases[name]) for name in PHASES]
    rows.append(("CPU seconds, all processes", sum(verl.cpu.values()), sum(leyden.cpu.values())))
    names = sorted({*verl.cpu, *leyden.cpu}, key=lambda name: -leyden.cpu.get(name, 0.0))
    both = [(f"of them {name}", verl.cpu.get(name, 0.0), leyden.cpu.get(name, 0.0)) for name in names]
    rows += [row for row in both if max(row[1:]) >= LEAST_CPU_S]
    for name, ours, theirs in rows:
        print(f"| {name} | {ours:.3f} | {theirs:.3f} | {theirs - ours:.3f} |")
    print(
        f"\nthe same agents alone, straight at vLLM: {alone:.3f} s, {own:.3f} CPU seconds of their process, which are "
        f"their own time; asking for log probabilities and token ids: {exact:.3f} s"
    )
    calls = TASKS * ROLLOUTS
    for what, of in (("clock", clock_seconds), ("CPU", cpu_seconds)):
        shares, beyond = compared(by["verl"], by["leyden"], of, own)
        print(
            f"{what}: a step takes {statistics.median(shares):+.1%} (pair by pair {min(shares):+.1%} to "
            f"{max(shares):+.1%}); beyond the agents' own time {beyond:+.1%}, "
            f"{1000 * beyond * statistics.median(map(of, by['verl'])) / calls:.2f} ms a model call"
        )
    _, beyond = compared(by["verl"], by["leyden"], cpu_seconds, own)
    met = beyond <= LIMIT
    print(f"by CPU seconds {beyond:+.1%} (required at most {LIMIT:.0%}): {'met' if met else 'missed'}")
    return met


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=SMALL, help=f"as in a configuration, or {TINY}")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="of each answer")
    asked = parser.parse_args()
    sys.path.insert(0, str(PARTS))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        steps = asyncio.run(run(prepare(folder, asked.model, pairs=asked.pairs, tokens=asked.tokens), folder))
    return 0 if report(steps, asked.tokens) else 1


if __name__ == "__main__":
    sys.exit(main())
