"""Calls become training rows by exact token prefix, as a forest; pure, without torch.

Unlike a converter that renders messages again, only recorded token ids are used, so a template that re-renders history
differently forks a row and is never patched. Interleaved sub-agents A1 B1 A2 B2 give two rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from leyden.continuity import answered, merge_rate
from leyden.errors import LeydenError
from leyden.types import Attempt, Call, Choice

__all__ = ["IncompleteRollout", "Span", "Transition", "merge_rate", "transitions"]


class IncompleteRollout(LeydenError):
    """The calls of a rollout cannot be made into rows; it is counted and shown, and not trained on."""

    def __init__(self, rollout_id: str, reason: str) -> None:
        super().__init__(f"rollout {rollout_id} is incomplete: {reason}")
        self.rollout_id = rollout_id
        self.reason = reason


@dataclass(frozen=True)
class Span:
    """The tokens [start, stop) of a row were sampled by this choice of this call."""

    call_id: str
    choice: int
    start: int
    stop: int


@dataclass(frozen=True)
class Transition:
    """One row. All tuples but `spans` have its length T."""

    rollout_id: str
    token_ids: tuple[int, ...]
    mask: tuple[bool, ...]
    """True for sampled tokens; the rest is context."""
    logprobs: tuple[float, ...]
    """The sampler's; 0.0 for context."""
    versions: tuple[int | None, ...]
    """Which policy version sampled the token; None for context."""
    spans: tuple[Span, ...]


@dataclass
class _Row:
    token_ids: list[int] = field(default_factory=list[int])
    mask: list[bool] = field(default_factory=list[bool])
    logprobs: list[float] = field(default_factory=list[float])
    versions: list[int | None] = field(default_factory=list[int | None])
    spans: list[Span] = field(default_factory=list[Span])

    def add_context(self, token_ids: Sequence[int]) -> None:
        self.token_ids += token_ids
        self.mask += [False] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)
        self.versions += [None] * len(token_ids)

    def add_sampled(self, call_id: str, number: int, choice: Choice, version: int | None) -> None:
        assert choice.token_ids is not None
        assert choice.logprobs is not None
        start = len(self.token_ids)
        self.token_ids += choice.token_ids
        self.mask += [True] * len(choice.token_ids)
        self.logprobs += choice.logprobs
        self.versions += [version] * len(choice.token_ids)
        self.spans.append(Span(call_id, number, start, len(self.token_ids)))


def transitions(rollout_id: str, calls: Sequence[Call], *, max_tokens: int | None) -> list[Transition]:
    """The rows of one rollout, in the order in which they began.

    Only the answer that the agent saw is trained: retries, errors, cancelled answers and context calls are left out.
    Calls are taken by (started_at, id). A call whose prompt starts with all tokens of a row continues that row,
    the longest one if there are several; else it begins a new one. Each of several choices is a row of its own.

    Args:
        rollout_id: for messages and rows.
        calls: the calls of the rollout's attempt.
        max_tokens: the longest row that may be trained; None for any.

    Raises:
        IncompleteRollout: tokens, log probabilities or versions are missing or cannot be right, or a row is too long.
    """
    rows: list[_Row] = []
    for call, answer in answered(calls):
        prompt = _checked_prompt(rollout_id, call, answer)
        row = _continued(rows, prompt)
        if row is None:
            row = _Row()
            rows.append(row)
        row.add_context(prompt[len(row.token_ids) :])
        branches = [row] + [_context_copy(row) for _ in answer.choices[1:]]
        rows += branches[1:]
        for number, (branch, choice) in enumerate(zip(branches, answer.choices, strict=True)):
            branch.add_sampled(call.id, number, choice, answer.version)
    return [_frozen(rollout_id, row, max_tokens) for row in rows]


def _continued(rows: Sequence[_Row], prompt: Sequence[int]) -> _Row | None:
    """The longest row that is a prefix of the prompt; of equal ones the first."""
    best: _Row | None = None
    for row in rows:
        length = len(row.token_ids)
        longer = best is None or length > len(best.token_ids)
        if longer and length <= len(prompt) and list(prompt[:length]) == row.token_ids:
            best = row
    return best


def _context_copy(row: _Row) -> _Row:
    """The same tokens as context only: every sampled token is trained at most once."""
    copy = _Row()
    copy.add_context(row.token_ids)
    return copy


def _checked_prompt(rollout_id: str, call: Call, answer: Attempt) -> tuple[int, ...]:
    if answer.prompt_token_ids is None:
        raise IncompleteRollout(rollout_id, f"call {call.id} has no prompt token ids")
    if answer.version is None:
        raise IncompleteRollout(rollout_id, f"call {call.id} has no policy version; did the weights change under it?")
    if not answer.choices:
        raise IncompleteRollout(rollout_id, f"call {call.id} was answered without a choice")
    for number, choice in enumerate(answer.choices):
        problem = _problem(choice)
        if problem:
            raise IncompleteRollout(rollout_id, f"call {call.id}, choice {number}: {problem}")
    return answer.prompt_token_ids


def _problem(choice: Choice) -> str | None:
    if not choice.token_ids:
        return "it has no token ids"
    if choice.logprobs is None:
        return "it has no log probabilities"
    if len(choice.logprobs) != len(choice.token_ids):
        return f"{len(choice.token_ids)} token ids but {len(choice.logprobs)} log probabilities"
    if not all(math.isfinite(value) for value in choice.logprobs):
        return "a log probability is not finite"
    return None


def _frozen(rollout_id: str, row: _Row, max_tokens: int | None) -> Transition:
    if max_tokens is not None and len(row.token_ids) > max_tokens:
        raise IncompleteRollout(
            rollout_id,
            f"a row of {len(row.token_ids)} tokens is over the limit of {max_tokens}; "
            "raise model.context_length, or keep the agent's history shorter",
        )
    return Transition(
        rollout_id,
        tuple(row.token_ids),
        tuple(row.mask),
        tuple(row.logprobs),
        tuple(row.versions),
        tuple(row.spans),
    )
