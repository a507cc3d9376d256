"""Does the credit method matter to a real model? The calculator agent with a distractor agent, SmolLM2-135M, the same
learning rate for all: held-out success before and after, and training rollouts until their own success is 0.8. No
training task comes twice, so a step's rollouts are a test of all steps before, and cost nothing more."""

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "calculator_langgraph"
TASKS = EXAMPLE / "runs" / "tasks_of_credit_calculator"
METHODS = ("group_regression", "dr_mas")
"""Those that need fewest rollouts in the small world of benchmarks/credit.py that is most alike: a pipeline of agents
that act once or a few times each."""
GOAL, STEPS_OF_GOAL = 0.8, 3
"""Reached where the mean over so many steps, sampled at temperature 1, is."""
ROLLOUTS = 32
"""In a step: 4 tasks, 8 rollouts each."""
FLAGS = (
    "--agent.function=with_distractor.py:solve",
    "--agent.timeout_s=900",  # a busy machine must not look like a slow agent
    f"--tasks.train={TASKS / 'train.jsonl'}",
    f"--tasks.heldout={TASKS / 'heldout.jsonl'}",
    "--trainer.tasks_per_step=4",
    "--trainer.evaluate_every=1000",  # before and after only
)


@dataclass(frozen=True)
class Measured:
    """One run."""

    before: float
    after: float
    rewards: list[float]
    """Mean of the step's rollouts, step by step."""
    minutes: float

    @property
    def needed(self) -> int | None:
        """Rollouts until GOAL; None if they were not enough."""
        for step in range(STEPS_OF_GOAL, len(self.rewards) + 1):
            if statistics.mean(self.rewards[step - STEPS_OF_GOAL : step]) >= GOAL:
                return step * ROLLOUTS
        return None


def run(method: str, seed: int, steps: int, flags: list[str]) -> Measured:
    """Train once, in a folder of its own."""
    runs = EXAMPLE / "runs"
    existing = set(runs.glob("*/summary.json"))
    command = [sys.executable, "-m", "leyden", "train", str(EXAMPLE / "train.toml"), *FLAGS, f"--seed={seed}"]
    own = [f"--name=credit-{method}-{seed}", f"--credit.method={method}", f"--trainer.steps={steps}"]
    subprocess.run([*command, *own, *flags], check=True)
    (path,) = set(runs.glob("*/summary.json")) - existing
    summary = json.loads(path.read_text())
    lines = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in lines if "reward" in line]
    return Measured(summary["eval_before"], summary["eval_after"], rewards, summary["seconds"] / 60)


def main() -> int:
    """Print a line for each run and what each method needs of `broadcast`'s rollouts; nothing is required of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=METHODS, help="against broadcast")
    parser.add_argument("--steps", type=int, default=20)
    arguments, flags = parser.parse_known_args()
    make = [sys.executable, str(EXAMPLE / "make_tasks.py"), f"--folder={TASKS}", "--heldout=64"]
    TASKS.mkdir(parents=True, exist_ok=True)
    subprocess.run(make, check=True)
    measured: dict[str, list[Measured]] = {method: [] for method in ("broadcast", *arguments.methods)}
    print("| seed | method | held-out before | after | training, all steps | rollouts until 0.8 | minutes |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for seed in arguments.seeds:
        for method, found in measured.items():
            m = run(method, seed, arguments.steps, flags)
            found.append(m)
            row = f"| {seed} | {method} | {m.before:.3f} | {m.after:.3f} | {statistics.mean(m.rewards):.3f}"
            print(f"{row} | {m.needed or f'more than {len(m.rewards) * ROLLOUTS}'} | {m.minutes:.1f} |", flush=True)
    for method, found in measured.items():
        after, training = mean_error([m.after for m in found]), mean_error([statistics.mean(m.rewards) for m in found])
        needed = against(found, measured["broadcast"])
        print(f"{method}: held-out {after}, training {training}, rollouts until {GOAL} (of broadcast's): {needed}")
    print(f"{len(arguments.seeds)} seeds, {arguments.steps} steps; nothing is required")
    return 0


def mean_error(values: list[float]) -> str:
    """Mean and standard error, as they are printed."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {error:.3f}"


def against(found: list[Measured], broadcast: list[Measured]) -> str:
    """Mean rollouts, and their ratio to `broadcast`'s; in words where a run did not get there."""
    needed, usual = ([m.needed for m in runs if m.needed is not None] for runs in (found, broadcast))
    if len(needed) < len(found) or len(usual) < len(broadcast):
        return f"{len(needed)} of {len(found)} runs reached it"
    return f"{statistics.mean(needed):.0f} ({statistics.mean(needed) / statistics.mean(usual):.2f})"


if __name__ == "__main__":
    sys.exit(main())
