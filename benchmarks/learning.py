"""Does the main job learn? Runs examples/calculator_langgraph on three seeds; prints before, after, steps, minutes.

With `--backends local verl` it trains the same settings on both backends, without an early stop, and prints the two
curves side by side. verl has an environment of its own (`make .venv-verl/.installed`); the agent stays in this one.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "calculator_langgraph"
CONFIG = EXAMPLE / "train.toml"
VERL_PYTHON = ROOT / ".venv-verl" / "bin" / "python"
MOST_BEFORE, LEAST_AFTER, MOST_MINUTES = 0.65, 0.90, 8.0
MOST_ERRORS = 2.0
"""Curves whose mean rewards are so many standard errors apart, or fewer, differ by noise."""


def run(seed: int, flags: Sequence[str], *, config: Path = CONFIG, python: str = sys.executable) -> Path:
    """One training run; returns its folder, which is new."""
    runs = EXAMPLE / "runs"
    before = set(runs.glob("*/summary.json"))
    command = [python, "-m", "leyden", "train", str(config)]
    subprocess.run([*command, f"--seed={seed}", f"--name=learning-{seed}", *flags], check=True)
    (summary,) = set(runs.glob("*/summary.json")) - before
    return summary.parent


def summary_of(folder: Path) -> dict[str, Any]:
    """What a run wrote at its end."""
    return json.loads((folder / "summary.json").read_text())


def curve_of(folder: Path, figure: str) -> dict[int, float]:
    """A figure of a run's journal by step."""
    records = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {int(record["step"]): record[figure] for record in records if figure in record}


def learn(seeds: Sequence[int], flags: Sequence[str]) -> bool:
    """Print a line a seed and the verdict."""
    summaries = [summary_of(run(seed, flags)) for seed in seeds]
    print(f"{'seed':>4} {'before':>7} {'after':>7} {'steps':>6} {'rollouts':>9} {'minutes':>8}")
    for s in summaries:
        row = f"{s['seed']:>4} {s['eval_before']:7.3f} {s['eval_after']:7.3f} {s['steps']:>6} {s['rollouts']:>9}"
        print(f"{row} {s['seconds'] / 60:8.1f}")
    before = max(s["eval_before"] for s in summaries)
    after = min(s["eval_after"] for s in summaries)
    slowest = max(s["seconds"] for s in summaries) / 60
    met = before <= MOST_BEFORE and after >= LEAST_AFTER and slowest <= MOST_MINUTES
    print(
        f"before at most {before:.3f} (required {MOST_BEFORE}), after at least {after:.3f} (required {LEAST_AFTER}), "
        f"slowest {slowest:.1f} min (required {MOST_MINUTES}): {'met' if met else 'missed'}"
    )
    return met


def compare(seeds: Sequence[int], flags: Sequence[str]) -> bool:
    """Print both backends' curves for each seed; whether they are the same within noise."""
    if not VERL_PYTHON.exists():
        sys.exit(f"no environment with verl at {VERL_PYTHON}: make .venv-verl/.installed")
    lines = CONFIG.read_text().splitlines(keepends=True)
    # Beside the original, since its paths are relative. verl's own loop knows no early stop.
    with tempfile.NamedTemporaryFile("w", dir=EXAMPLE, prefix="compared-", suffix=".toml") as file:
        file.writelines(line for line in lines if not line.startswith("stop_at"))
        file.flush()
        config = Path(file.name)
        verl = ["--trainer.backend=verl", f"--agent.python={sys.executable}", "--trainer.verl.trainer.save_freq=-1"]
        same = True
        for seed in seeds:
            local = run(seed, flags, config=config)
            other = run(seed, [*flags, *verl, f"--name=learning-verl-{seed}"], config=config, python=str(VERL_PYTHON))
            same = print_curves(seed, local, other) and same
    return same


def print_curves(seed: int, local: Path, verl: Path) -> bool:
    """Reward and held-out success by step, and how far apart the rewards are on the whole."""
    rewards = curve_of(local, "reward"), curve_of(verl, "reward")
    heldout = curve_of(local, "heldout"), curve_of(verl, "heldout")
    print(f"\n| seed {seed}, step | reward, local | reward, verl | held-out, local | held-out, verl |")
    print("|---|---|---|---|---|")
    for step in sorted({step for curve in (*rewards, *heldout) for step in curve}):
        cells = (f"{curve[step]:.3f}" if step in curve else "" for curve in (*rewards, *heldout))
        print(f"| {step} | {' | '.join(cells)} |")
    apart = [rewards[1][step] - reward for step, reward in rewards[0].items()]
    error = statistics.stdev(apart) / math.sqrt(len(apart))
    same = abs(statistics.mean(apart)) <= MOST_ERRORS * error
    print(
        f"verl's reward less local's, mean of {len(apart)} steps: {statistics.mean(apart):+.3f}, standard error "
        f"{error:.3f} (required within {MOST_ERRORS:g} of them): {'met' if same else 'missed'}"
    )
    return same


def main() -> int:
    """Run and report; 1 if something was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backends", choices=("local", "verl"), nargs="+", default=["local"])
    arguments, flags = parser.parse_known_args()
    if sorted(set(arguments.backends)) not in (["local"], ["local", "verl"]):
        parser.error("--backends: verl is compared with local; name both")
    subprocess.run([sys.executable, str(EXAMPLE / "make_tasks.py")], check=True)
    met = (compare if "verl" in arguments.backends else learn)(arguments.seeds, flags)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
