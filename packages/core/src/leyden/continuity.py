"""Which calls go on where an earlier one ended, token by token: what can be merged into one training row.

Unlike a comparison of messages it asks what was sampled, so a template that renders history anew is seen as what it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from leyden.types import Attempt, Call

__all__ = ["Row", "answered", "continued", "merge_rate", "rows"]


def answered(calls: Sequence[Call]) -> list[tuple[Call, Attempt]]:
    """Calls with the answer that the agent saw, in order; context calls are left out."""
    ordered = sorted(calls, key=lambda call: (call.started_at, call.id))
    return [(call, call.answer) for call in ordered if call.answer is not None and not call.context]


@dataclass
class Row:
    """One training row: the calls that went on from each other, and how many tokens it has."""

    tokens: tuple[int, ...]
    calls: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """(call id, choice) of the answers in it, the first first."""


def rows(calls: Sequence[Call]) -> list[Row]:
    """The training rows that the calls of one rollout become, in the order in which they began.

    What a call continued is taken, a call whose tokens are not all there is in no row, and each of several choices is a
    row of its own, in which what came before is context only.
    """
    made: list[Row] = []
    for call, answer in answered(calls):
        prompt = answer.prompt_token_ids
        if prompt is None or not answer.choices or not all(choice.token_ids for choice in answer.choices):
            continue
        going_on = [row for row in made if prompt[: len(row.tokens)] == row.tokens]
        row = max(going_on, key=lambda row: len(row.tokens), default=None)
        if row is None:
            row = Row(())
            made.append(row)
        made += [Row(()) for _ in answer.choices[1:]]
        branches = [row, *made[len(made) - len(answer.choices) + 1 :]]
        for number, (branch, choice) in enumerate(zip(branches, answer.choices, strict=True)):
            branch.tokens = (*prompt, *(choice.token_ids or ()))
            branch.calls.append((call.id, number))
    return made


def continued(calls: Sequence[Call]) -> tuple[int, int]:
    """Of one rollout: how many calls go on with all tokens of an earlier one and its answer, and how many could."""
    return sum(len(row.calls) - 1 for row in rows(calls)), max(len(answered(calls)) - 1, 0)


def merge_rate(rollouts: Sequence[Sequence[Call]]) -> float:
    """The share of calls that continued a row, among all but the first of each rollout; 1.0 when there are none."""
    counts = [continued(calls) for calls in rollouts]
    could = sum(later for _, later in counts)
    return sum(count for count, _ in counts) / could if could else 1.0
