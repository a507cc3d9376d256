"""One training row: what a backend needs of a transition, and nothing else; and how a step's rows are dealt out.

Plain tuples, no torch.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["RowScores", "TrainingRow", "ValueTarget", "minibatches"]


@dataclass(frozen=True)
class ValueTarget:
    """What a critic's head should say before token `place` of a row; its term is weight * (value - target)² / 2."""

    place: int
    """A trained token."""
    head: int
    """0: the low head, or the only one. 1: the high head."""
    target: float
    """The return that the credit method defines."""
    value: float
    """The head's answer before this step's updates."""
    weight: float


@dataclass(frozen=True)
class TrainingRow:
    """Token t of a row is trained if mask[t]; its term in the step's loss is weights[t] * loss_t(advantages[t]).

    All tuples but `spans` and `targets` have the length T of the row. Where mask is False the other numbers are 0 and
    mean nothing. The weights of one step already hold the normalisation (DESIGN.md, invariant 4): a backend sums, it
    never divides by a row, a micro-batch or a worker count.
    """

    rollout_id: str
    token_ids: tuple[int, ...]
    mask: tuple[bool, ...]
    logprobs: tuple[float, ...]
    """Natural logarithms: the sampler's, or the trainer's before the step (`loss.old_logprobs`)."""
    advantages: tuple[float, ...]
    weights: tuple[float, ...]
    spans: tuple[tuple[int, int], ...] = ()
    """[start, stop) of each trained answer, whole: the sequences of `gspo`."""
    targets: tuple[ValueTarget, ...] = ()
    """What a critic learns from the row."""


@dataclass(frozen=True)
class RowScores:
    """What the weights, as they are, say of a row. Tuples of the row's length; 0 where its mask is False."""

    logprobs: tuple[float, ...]
    values: tuple[tuple[float, ...], ...] = ()
    """By each head of the critic, before each trained token; () without a critic."""


def minibatches(rows: Sequence[TrainingRow], count: int, seed: str) -> list[list[TrainingRow]]:
    """The rows in up to `count` parts with as equal numbers of rollouts as can be, dealt in an order drawn by `seed`.

    A rollout's rows stay together, and only the rollouts' ids decide: cutting rows otherwise changes no part.
    """
    rollouts = sorted({row.rollout_id for row in rows})
    random.Random(seed).shuffle(rollouts)
    part = {rollout_id: place % count for place, rollout_id in enumerate(rollouts)}
    return [[row for row in rows if part[row.rollout_id] == n] for n in range(min(count, len(rollouts)))]
