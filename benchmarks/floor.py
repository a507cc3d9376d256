"""How far from the floor is a step? The calculator's run, its phases' times beside what their unique tokens cost.

The floor of a phase is the floating-point operations of the different tokens that it has to compute, each once, at the
rate at which this machine multiplies large float32 matrices on the same threads. Sampling one token at a time reads all
weights for few operations, so that no sampler reaches its floor; training may.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from leyden.store import SqlStore
from leyden.types import Call
from leyden_trainer.transitions import Transition, transitions

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "calculator_langgraph"
RUNS = EXAMPLE / "runs"


@dataclass(frozen=True)
class Shape:
    """What a decoder computes for a token: weights that multiply it, and attention to `seen` tokens."""

    layer_weights: int
    head_weights: int
    attention: int

    @classmethod
    def read(cls, folder: Path) -> "Shape":
        c = AutoConfig.from_pretrained(folder)
        size = c.hidden_size // c.num_attention_heads
        projections = c.hidden_size * size * 2 * (c.num_attention_heads + c.num_key_value_heads)
        layer = projections + 3 * c.hidden_size * c.intermediate_size
        return cls(c.num_hidden_layers * layer, c.vocab_size * c.hidden_size, 4 * c.num_hidden_layers * c.hidden_size)

    def forward(self, depths: Sequence[int], predictions: int) -> float:
        """Operations of tokens that see `depths` others, and of `predictions` rows of logits."""
        layers = 2.0 * self.layer_weights * len(depths) + self.attention * float(sum(depths))
        return layers + 2.0 * self.head_weights * predictions


def depths_of(sequences: Iterable[tuple[int, ...]]) -> list[int]:
    """The depth of each node of the sequences' prefix tree, the root's children having 1."""
    found: list[int] = []
    before: tuple[int, ...] = ()
    for sequence in sorted(set(sequences)):
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, sequence, strict=False)) if a != b),
            min(len(before), len(sequence)),
        )
        found += range(shared + 1, len(sequence) + 1)
        before = sequence
    return found


def sampling(shape: Shape, calls: Sequence[Call]) -> float:
    """Every prompt and every sampled token but the last is read once; each sampled token was predicted."""
    read, predicted = [], 0
    for call in calls:
        attempt = call.attempts[-1]
        for choice in attempt.choices:
            read.append((attempt.prompt_token_ids or ()) + (choice.token_ids or ())[:-1])
            predicted += len(choice.token_ids or ())
    return shape.forward(depths_of(read), predicted)


def training(shape: Shape, rows: Sequence[Transition]) -> float:
    """Forward and backward, three times the forward pass over the rows that taught something; twice for the head, whose
    weights, the embedding's, are not trained."""
    read = [row.token_ids[:-1] for row in rows]
    predictions = sum(sum(row.mask) for row in rows)
    return 3.0 * shape.forward(depths_of(read), 0) + 2.0 * shape.forward([], predictions)


def rate(threads: int) -> float:
    """Operations per second of the machine's own matrix product, the best of ten."""
    torch.set_num_threads(threads)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2.0 * 2048**3 / best


async def floors(run: Path, shape: Shape, step: int) -> tuple[float, float]:
    """Operations of the step's sampling and of its training."""
    store = SqlStore.open(run / "store.sqlite")
    page = await store.rollouts(run=run.name, mode="train", limit=1000)
    ids = [rollout.id for rollout in page.rollouts if rollout.step == step]
    calls = await store.calls(ids)
    taught = {credit.rollout_id for credit in await store.credits(ids) if credit.advantage}
    await store.close()
    mine = {name: [call for call in calls if call.rollout_id == name] for name in taught}
    rows = [row for name, its in mine.items() for row in transitions(name, its, max_tokens=None)]
    return sampling(shape, calls), training(shape, rows)


def main() -> None:
    """Train some steps, then print a line for each phase of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4, choices=range(1, 16))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    subprocess.run([sys.executable, str(EXAMPLE / "make_tasks.py")], check=True)
    command = [sys.executable, "-m", "leyden", "train", str(EXAMPLE / "train.toml"), "--name=floor"]
    flags = [f"--trainer.steps={arguments.steps}", "--trainer.evaluate_every=100", "--trainer.stop_at=2"]
    before = set(RUNS.glob("*/summary.json"))
    subprocess.run([*command, *flags], check=True)
    (summary,) = set(RUNS.glob("*/summary.json")) - before
    run = summary.parent
    shape, speed = Shape.read(run / "checkpoints" / "last"), rate(arguments.threads)
    print(f"matrix product, float32, {arguments.threads} threads: {speed / 1e9:.0f} GFLOP/s")
    print(f"{'step':>4} {'phase':<10} {'GFLOP':>8} {'floor s':>8} {'seconds':>8} {'times the floor':>16}")
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if "seconds_rollouts" not in record:
            continue
        for phase, operations in zip(
            ("rollouts", "update"), asyncio.run(floors(run, shape, record["step"])), strict=True
        ):
            least, took = operations / speed, record[f"seconds_{phase}"]
            row = f"{record['step']:>4} {phase:<10} {operations / 1e9:8.0f} {least:8.2f} {took:8.2f}"
            print(f"{row} {took / least if least else float('nan'):16.1f}")


if __name__ == "__main__":
    main()
