"""Transitions and advantages become training rows: each token with its advantage, its weight, a critic's target.

The weight holds the whole normalisation, counted over the optimiser step, so that cutting rows otherwise, padding or
micro-batching cannot change the gradient (DESIGN.md, invariant 4).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from leyden.errors import BadInput
from leyden_trainer.credit.group import Advantage, CallValues
from leyden_trainer.rows import TrainingRow, ValueTarget
from leyden_trainer.transitions import Span, Transition

__all__ = ["Aggregate", "training_rows"]

Aggregate = Literal["token_mean", "call_mean", "rollout_mean", "constant"]


def training_rows(
    transitions: Sequence[Transition],
    advantages: Mapping[str, Advantage],
    *,
    aggregate: Aggregate = "token_mean",
    constant: float = 1.0,
    values: Mapping[str, CallValues] | None = None,
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
        values: the critic's before the step, by call id; needed for advantages that come with returns. Each head's
            targets weigh 1 / their number in the step, whatever `aggregate` is.
    """
    spans = [(t.rollout_id, span) for t in transitions for span in t.spans if span.call_id in advantages]
    weigh = _Weights(spans, aggregate, constant)
    offsets = _offsets([span for _, span in spans], advantages)
    targets = _Targets(advantages, values or {}, offsets)
    rows = [_row(transition, advantages, weigh, offsets, targets) for transition in transitions]
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


class _Targets:
    """What the critic learns at the tokens of a span."""

    def __init__(
        self,
        advantages: Mapping[str, Advantage],
        values: Mapping[str, CallValues],
        offsets: Mapping[tuple[str, int], int],
    ) -> None:
        self._advantages = advantages
        self._values = values
        self._offsets = offsets
        self._low = sum(len(advantage.returns or ()) for advantage in advantages.values())
        self._high = sum(advantage.high_return is not None for advantage in advantages.values())

    def __call__(self, span: Span) -> Iterator[ValueTarget]:
        advantage, offset = self._advantages[span.call_id], self._offsets[span.call_id, span.choice]
        if advantage.returns is None and advantage.high_return is None:
            return
        values = self._values[span.call_id]
        for place, target in enumerate((advantage.returns or ())[offset : offset + span.stop - span.start]):
            yield ValueTarget(span.start + place, 0, target, values.tokens[offset + place], 1 / self._low)
        if advantage.high_return is not None and offset == 0:
            if values.high is None:
                raise BadInput(f"call {span.call_id} has a return for a high head, and its critic has none")
            yield ValueTarget(span.start, 1, advantage.high_return, values.high, 1 / self._high)


def _offsets(spans: Sequence[Span], advantages: Mapping[str, Advantage]) -> dict[tuple[str, int], int]:
    """How many sampled tokens of its call come before each choice's; also checks the number of per-token advantages."""
    offsets: dict[tuple[str, int], int] = {}
    sizes: Counter[str] = Counter()
    for span in sorted(spans, key=lambda span: (span.call_id, span.choice)):
        offsets[span.call_id, span.choice] = sizes[span.call_id]
        sizes[span.call_id] += span.stop - span.start
    for call_id, size in sizes.items():
        given = advantages[call_id].tokens
        if given is not None and len(given) != size:
            raise BadInput(f"call {call_id} has {len(given)} advantages for its {size} sampled tokens")
    return offsets


def _row(
    transition: Transition,
    advantages: Mapping[str, Advantage],
    weigh: _Weights,
    offsets: Mapping[tuple[str, int], int],
    targets: _Targets,
) -> TrainingRow:
    length = len(transition.token_ids)
    mask, advantage, weight = [False] * length, [0.0] * length, [0.0] * length
    trained = [span for span in transition.spans if span.call_id in advantages]
    for span in trained:
        size, given = span.stop - span.start, advantages[span.call_id]
        offset = offsets[span.call_id, span.choice]
        mask[span.start : span.stop] = [True] * size
        advantage[span.start : span.stop] = (
            [given.value] * size if given.tokens is None else given.tokens[offset : offset + size]
        )
        weight[span.start : span.stop] = [weigh(transition.rollout_id, span)] * size
    return TrainingRow(
        rollout_id=transition.rollout_id,
        token_ids=transition.token_ids,
        mask=tuple(mask),
        logprobs=tuple(value if kept else 0.0 for value, kept in zip(transition.logprobs, mask, strict=True)),
        advantages=tuple(advantage),
        weights=tuple(weight),
        spans=tuple((span.start, span.stop) for span in trained),
        targets=tuple(target for span in trained for target in targets(span)),
    )
