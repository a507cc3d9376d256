"""Does the main job learn? Runs examples/calculator_langgraph on three seeds; prints before, after, steps, minutes."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "calculator_langgraph"
MOST_BEFORE, LEAST_AFTER, MOST_MINUTES = 0.65, 0.90, 8.0


def run(seed: int, flags: list[str]) -> dict:
    """One training run in a folder of its own; returns its summary.json."""
    runs = EXAMPLE / "runs"
    before = set(runs.glob("*/summary.json"))
    command = [sys.executable, "-m", "leyden", "train", str(EXAMPLE / "train.toml")]
    subprocess.run([*command, f"--seed={seed}", f"--name=learning-{seed}", *flags], check=True)
    (summary,) = set(runs.glob("*/summary.json")) - before
    return json.loads(summary.read_text())


def main() -> int:
    """Print a line a seed and the verdict; 1 if a seed missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments, flags = parser.parse_known_args()
    subprocess.run([sys.executable, str(EXAMPLE / "make_tasks.py")], check=True)
    summaries = [run(seed, flags) for seed in arguments.seeds]
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
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
