"""Transitions and advantages become training rows: each token with its advantage and its weight in the step's loss.

The weight holds the whole normalisation, counted over the optimiser step, so that cutting rows otherwise, padding or
micro-batching cannot change the gradient (DESIGN.md, invariant 4).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from leyden_trainer.rows import TrainingRow
from leyden_trainer.transitions import Span, Transition

__all__ = ["Aggregate", "training_rows"]

Aggregate = Literal["token_mean", "call_mean", "rollout_mean", "constant"]


def training_rows(
    transitions: Sequence[Transition],
    advantages: Mapping[str, float],
    *,
    aggregate: Aggregate = "token_mean",
    constant: float = 1.0,
) -> list[TrainingRow]:
    """The rows of one optimiser step. A call without an advantage is context; a row of context alone is left out.

    Args:
        transitions: all of the step.
        advantages: by call id.
        aggregate: how tokens are weighed. `token_mean`: 1/T, T being all trained tokens of the step, those of advantage
            0 too; unbiased up to scale. `constant`: 1/`constant` (Dr. GRPO, arXiv:2503.20783); unbiased.
            `call_mean`: each call's mean, then the mean over calls; biased to short calls (simulated: cosine 0.85 to
            the true gradient). `rollout_mean`: each rollout's token mean, then the mean over rollouts, as Agent
            Lightning does; biased likewise (0.75).
        constant: only for `constant`.
    """
    spans = [(t.rollout_id, span) for t in transitions for span in t.spans if span.call_id in advantages]
    weigh = _Weights(spans, aggregate, constant)
    rows = [_row(transition, advantages, weigh) for transition in transitions]
    return [row for row in rows if any(row.mask)]


class _Weights:
    """The weight of one token of a call of a rollout."""

    def __init__(self, spans: Sequence[tuple[str, Span]], aggregate: Aggregate, constant: float) -> None:
        self._aggregate = aggregate
        self._constant = constant
        self._per_rollout: Counter[str] = Counter()
        self._per_choice: Counter[tuple[str, int]] = Counter()
        for rollout_id, span in spans:
            self._per_rollout[rollout_id] += span.stop - span.start
            self._per_choice[span.call_id, span.choice] += span.stop - span.start
        self._total = sum(self._per_rollout.values())

    def __call__(self, rollout_id: str, span: Span) -> float:
        if self._aggregate == "token_mean":
            return 1.0 / self._total
        if self._aggregate == "call_mean":
            return 1.0 / (len(self._per_choice) * self._per_choice[span.call_id, span.choice])
        if self._aggregate == "rollout_mean":
            return 1.0 / (len(self._per_rollout) * self._per_rollout[rollout_id])
        return 1.0 / self._constant


def _row(transition: Transition, advantages: Mapping[str, float], weigh: _Weights) -> TrainingRow:
    length = len(transition.token_ids)
    mask, advantage, weight = [False] * length, [0.0] * length, [0.0] * length
    for span in transition.spans:
        if span.call_id in advantages:
            size = span.stop - span.start
            mask[span.start : span.stop] = [True] * size
            advantage[span.start : span.stop] = [advantages[span.call_id]] * size
            weight[span.start : span.stop] = [weigh(transition.rollout_id, span)] * size
    return TrainingRow(
        rollout_id=transition.rollout_id,
        token_ids=transition.token_ids,
        mask=tuple(mask),
        logprobs=tuple(value if kept else 0.0 for value, kept in zip(transition.logprobs, mask, strict=True)),
        advantages=tuple(advantage),
        weights=tuple(weight),
        spans=tuple((span.start, span.stop) for span in transition.spans if span.call_id in advantages),
    )
