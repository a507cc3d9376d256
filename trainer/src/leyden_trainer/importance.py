"""Truncated importance weights: what makes up for a sampler whose log probabilities are not the trainer's. Pure.

The trainer's log probabilities, from before the step's updates, become the ratio's denominator, and trainer / sampler
weighs the token, cut at a cap: the decoupled form (arXiv:2505.24298) with truncation (IMPALA, arXiv:1802.01561).
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from leyden.errors import BadInput
from leyden_trainer.rows import TrainingRow

__all__ = ["ImportanceStats", "mean_mismatch", "mismatch", "reweighted"]


@dataclass(frozen=True)
class ImportanceStats:
    """Over the trained tokens of a step; of weights 1 for a sampler that is the trainer."""

    mean: float
    """Of the weights, after the cap."""
    capped: float
    """The share of tokens whose weight the cap cut."""


def mismatch(rows: Sequence[TrainingRow], logprobs: Sequence[Sequence[float]]) -> tuple[float, str]:
    """The largest |log sampler - log trainer| of a trained token, and its rollout; a NaN counts as infinite."""
    return max(_differences(rows, logprobs), key=lambda found: found[0], default=(0.0, ""))


def mean_mismatch(rows: Sequence[TrainingRow], logprobs: Sequence[Sequence[float]]) -> float:
    """The mean |log sampler - log trainer| over the trained tokens, 0 without any; a NaN counts as infinite."""
    differences = [difference for difference, _ in _differences(rows, logprobs)]
    return sum(differences) / max(1, len(differences))


def _differences(rows: Sequence[TrainingRow], logprobs: Sequence[Sequence[float]]) -> Iterator[tuple[float, str]]:
    """|log sampler - log trainer| of each trained token, with its rollout."""
    for row, found in zip(rows, logprobs, strict=True):
        for ours, theirs, trained in zip(found, row.logprobs, row.mask, strict=True):
            if trained:
                difference = abs(ours - theirs)
                yield math.inf if math.isnan(difference) else difference, row.rollout_id


def reweighted(
    rows: Sequence[TrainingRow], logprobs: Sequence[Sequence[float]], *, cap: float | None
) -> tuple[list[TrainingRow], ImportanceStats]:
    """The rows with the trainer's log probabilities, each advantage times min(trainer / sampler, cap).

    Every objective is positively homogeneous in the advantage, so the KL term, the entropy bonus and the critic keep
    their weights.

    Args:
        rows: with the sampler's log probabilities.
        logprobs: the trainer's before the step's updates, one for each token of each row; not read where mask is False.
        cap: None leaves the advantages as they are.
    """
    given = [_weights(row, found, cap) for row, found in zip(rows, logprobs, strict=True)]
    changed = [
        dataclasses.replace(
            row,
            logprobs=tuple(value if m else 0.0 for value, m in zip(found, row.mask, strict=True)),
            advantages=tuple(a * w for a, (w, _) in zip(row.advantages, weights, strict=True)),
        )
        for row, found, weights in zip(rows, logprobs, given, strict=True)
    ]
    trained = [w for row, weights in zip(rows, given, strict=True) for w, m in zip(weights, row.mask, strict=True) if m]
    count = max(1, len(trained))
    mean = sum(weight for weight, _ in trained) / count if trained else 1.0
    return changed, ImportanceStats(mean, sum(cut for _, cut in trained) / count)


def _weights(row: TrainingRow, logprobs: Sequence[float], cap: float | None) -> list[tuple[float, bool]]:
    """For each token its weight and whether the cap cut it."""
    if len(logprobs) != len(row.mask):
        raise BadInput(
            f"rollout {row.rollout_id}: {len(logprobs)} log probabilities for a row of {len(row.mask)} tokens"
        )
    if cap is None:
        return [(1.0, False)] * len(row.mask)
    weights: list[tuple[float, bool]] = []
    for ours, theirs, trained in zip(logprobs, row.logprobs, row.mask, strict=True):
        # In logarithms: a ratio beyond the range of floats is above every cap.
        log_weight = ours - theirs if trained else 0.0
        cut = log_weight > math.log(cap)
        weights.append((cap if cut else math.exp(log_weight), cut))
    return weights
