"""Do the scenarios learn? Runs each example's cpu.toml on several seeds: held-out score of the model as it came, after
the warm start, after RL; what RL gained, with a paired test over the held-out tasks; minutes."""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binomtest, permutation_test

from leyden.store import SqlStore

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
REQUIRED_GAIN = {"text_to_sql": 0.25, "multihop_qa": 0.25, "math_tools": 0.40}
MOST_P, MOST_MINUTES = 0.01, 20.0


@dataclass(frozen=True)
class Measured:
    """One run."""

    scenario: str
    seed: int
    base: float | None
    before: float
    after: float
    num_tasks: int
    full_before: float
    full_after: float
    """The share of tasks with a reward of 1: in multihop_qa an exact answer in the agreed form, words in any order."""
    by_kind: dict[str, list[float]]
    """The rewards after RL of each kind of task, by its `kind` or `source`."""
    p: float
    minutes: float
    """From the command to its end: loading, warm start, evaluations and all."""
    cpu_minutes: float
    """Of all its processes."""

    @property
    def gain(self) -> float:
        return self.after - self.before

    @property
    def row(self) -> str:
        """Of the table."""
        base = "" if self.base is None else f"{self.base:.3f}"
        scores = f"{base} | {self.before:.3f} | {self.after:.3f} | {self.gain:+.3f} | {self.p:.2g}"
        return (
            f"| {self.scenario} | {self.seed} | {self.num_tasks} | {scores} | {self.minutes:.1f} | "
            f"{self.cpu_minutes:.1f} |"
        )

    @property
    def details(self) -> str:
        """What stands below the table."""
        kinds = ", ".join(f"{kind} {sum(got):g} of {len(got)}" for kind, got in sorted(self.by_kind.items()))
        whole = f"tasks with a reward of 1: {self.full_before:.3f} before RL, {self.full_after:.3f} after"
        return f"{self.scenario}, seed {self.seed}: {whole}; rewards after RL by kind: {kinds}"

    @property
    def met(self) -> bool:
        return self.gain >= REQUIRED_GAIN[self.scenario] and self.p < MOST_P and self.minutes <= MOST_MINUTES


def paired_p(before: list[float], after: list[float]) -> float:
    """How likely so much change is if RL changed nothing, two-sided: McNemar's exact test for successes and failures,
    else a permutation test that swaps the two scores of a task."""
    changes = np.array(after) - np.array(before)
    if set(before) | set(after) <= {0.0, 1.0}:
        better, worse = int((changes > 0).sum()), int((changes < 0).sum())
        return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    found = permutation_test(
        (np.array(after), np.array(before)),
        lambda a, b, axis: (a - b).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=100_000,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


async def heldout_scores(folder: Path, steps: list[int], num_tasks: int) -> list[list[float]]:
    """For each step the held-out tasks' rewards, in the tasks' order; an incomplete rollout's is 0."""
    store = SqlStore.open(folder / "store.sqlite")
    found = []
    for step in steps:
        ids = [f"{folder.name}-h{step}-{number}-r0" for number in range(1, num_tasks + 1)]
        total = dict.fromkeys(ids, 0.0)
        for reward in await store.rewards(ids):
            if reward.agent is None and reward.call_id is None:
                total[reward.rollout_id] += reward.value
        incomplete = {i for i in ids if (await store.rollout(i)).status == "incomplete"}
        found.append([0.0 if i in incomplete else total[i] for i in ids])
    await store.close()
    return found


def run(scenario: str, seed: int, flags: list[str]) -> Measured:
    """Train once, in a folder of its own."""
    runs = EXAMPLES / scenario / "runs"
    existing = set(runs.glob("*/summary.json"))
    command = [sys.executable, "-m", "leyden", "train", str(EXAMPLES / scenario / "cpu.toml"), f"--seed={seed}"]
    began, used = time.perf_counter(), _cpu_seconds()
    subprocess.run([*command, f"--name=scenario-{seed}", *flags], check=True)
    minutes, cpu_minutes = (time.perf_counter() - began) / 60, (_cpu_seconds() - used) / 60
    (path,) = set(runs.glob("*/summary.json")) - existing
    summary = json.loads(path.read_text())
    tasks = [json.loads(line) for line in (EXAMPLES / scenario / "heldout.jsonl").read_text().splitlines()]
    before, after = asyncio.run(heldout_scores(path.parent, [0, summary["steps"]], len(tasks)))
    by_kind: dict[str, list[float]] = {}
    for task, reward in zip(tasks, after, strict=True):
        by_kind.setdefault(task.get("kind") or task["source"], []).append(reward)
    return Measured(
        scenario=scenario,
        seed=seed,
        base=summary["eval_base"],
        before=summary["eval_before"],
        after=summary["eval_after"],
        num_tasks=len(tasks),
        full_before=float(np.mean(np.array(before) >= 1)),
        full_after=float(np.mean(np.array(after) >= 1)),
        by_kind=by_kind,
        p=paired_p(before, after),
        minutes=minutes,
        cpu_minutes=cpu_minutes,
    )


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Print a line a run and the verdict; 1 if a run missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", nargs="+", default=[s for s in REQUIRED_GAIN if (EXAMPLES / s).is_dir()])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--habit", help="of make_demos.py: the share of demonstrations that show a bad habit")
    arguments, flags = parser.parse_known_args()
    shown = [] if arguments.habit is None else ["--habit", arguments.habit]
    measured: list[Measured] = []
    for scenario in arguments.scenario:
        for script in (["make_tasks.py"], ["make_demos.py", *shown]):
            subprocess.run([sys.executable, str(EXAMPLES / scenario / script[0]), *script[1:]], check=True)
        for seed in arguments.seeds:
            measured.append(run(scenario, seed, flags))
            print(measured[-1].row, flush=True)  # also at once: if stopped, it has told what it knew
    print("| scenario | seed | tasks | base | after warm start | after RL | gain by RL | p | minutes | CPU minutes |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(m.row for m in measured))
    print("\n".join(m.details for m in measured))
    worst = min(measured, key=lambda m: m.gain - REQUIRED_GAIN[m.scenario])
    verdict = "met" if all(m.met for m in measured) else "missed"
    print(
        f"least gain by RL against its requirement: {worst.scenario} {worst.gain:+.3f} "
        f"(required {REQUIRED_GAIN[worst.scenario]:+.2f}), largest p {max(m.p for m in measured):.2g} (required below "
        f"{MOST_P}), slowest {max(m.minutes for m in measured):.1f} min (required {MOST_MINUTES}): {verdict}"
    )
    return 0 if verdict == "met" else 1


if __name__ == "__main__":
    sys.exit(main())
