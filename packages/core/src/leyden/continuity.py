"""Which calls go on where an earlier one ended, token by token: what can be merged into one training row.

Unlike a comparison of messages it asks what was sampled, so a template that renders history anew is seen as what it is.
"""

from collections.abc import Sequence

from leyden.types import Attempt, Call

__all__ = ["answered", "continued", "merge_rate"]


def answered(calls: Sequence[Call]) -> list[tuple[Call, Attempt]]:
    """Calls with the answer that the agent saw, in order; context calls are left out."""
    ordered = sorted(calls, key=lambda call: (call.started_at, call.id))
    return [(call, call.answer) for call in ordered if call.answer is not None and not call.context]


def continued(calls: Sequence[Call]) -> tuple[int, int]:
    """Of one rollout: how many calls go on with all tokens of an earlier one and its answer, and how many could.

    As in training rows: what a call continued is taken, and a call whose tokens are not all there continues nothing.
    """
    rows: list[tuple[int, ...]] = []
    count = 0
    answers = answered(calls)
    for _, answer in answers:
        prompt = answer.prompt_token_ids
        if prompt is None or not all(choice.token_ids for choice in answer.choices):
            continue
        row = max((row for row in rows if prompt[: len(row)] == row), key=len, default=None)
        if row is not None:
            rows.remove(row)
            count += 1
        rows += [(*prompt, *(choice.token_ids or ())) for choice in answer.choices]
    return count, max(len(answers) - 1, 0)


def merge_rate(rollouts: Sequence[Sequence[Call]]) -> float:
    """The share of calls that continued a row, among all but the first of each rollout; 1.0 when there are none."""
    counts = [continued(calls) for calls in rollouts]
    could = sum(later for _, later in counts)
    return sum(count for count, _ in counts) / could if could else 1.0
