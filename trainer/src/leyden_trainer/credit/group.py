"""What credit assignment sees of a step, and what it gives back: numbers and names, no torch.

Unlike a tensor of rewards it keeps the structure: who was asked what, what was answered, where control changed hands.
A method that needs a critic says so (`CreditMethod.heads`); a value that is missing is an error, never 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from leyden.errors import BadInput

__all__ = ["Advantage", "CallValues", "CallView", "Group", "RolloutView", "valued"]


@dataclass(frozen=True)
class CallView:
    """One call that may be learnt from. `agent` is its path joined by "/", empty if it is unknown."""

    id: str
    agent: str
    reward: float = 0.0
    """The sum of the rewards given to this very call."""
    state: str = ""
    """An anchor: a hash of the agent and all that it was asked, in canonical form. Equal text is an equal state."""
    observation: str = ""
    """A weaker anchor: a hash of the agent and of what is new to it, the messages after its own last answer."""
    action: str = ""
    """The tool calls or the text that it answered, in canonical form."""
    segment: int = 0
    """0, 1, 2, ... within the rollout. A segment is a maximal run of consecutive calls of one agent path and node; a
    handoff, a sub-agent or another node begins a new one."""
    num_tokens: int = 1
    """Sampled tokens; of all choices, in their order."""
    num_choices: int = 1
    values: tuple[float, ...] | None = None
    """A critic's value before each sampled token, by the low head (or the only one); its length is `num_tokens`.
    values[0] is the value of the state that the call was asked in. None: no critic was asked."""
    high_value: float | None = None
    """The high head's value at the same place as values[0], the call's first sampled token. None: no high head."""


@dataclass(frozen=True)
class RolloutView:
    """One member of a group. `calls` are in the order in which they were made."""

    id: str
    reward: float
    """The sum of the rewards of the rollout as a whole."""
    calls: tuple[CallView, ...]
    agent_rewards: tuple[tuple[str, float], ...] = ()
    """(agent, sum of the rewards given to it)."""
    task: str = ""
    """The task's id, which is the same in every step; empty if it is unknown."""


Group = Sequence[RolloutView]
"""Rollouts of one task."""


@dataclass(frozen=True)
class Advantage:
    """What a call is trained with, and against what it was compared, in words."""

    value: float
    """For each of the call's tokens; where `tokens` is given, their mean, for people to read."""
    reason: str
    tokens: tuple[float, ...] | None = None
    """One advantage per sampled token. None: `value` for each."""
    returns: tuple[float, ...] | None = None
    """What the low (or only) head is trained towards at the call's first len(returns) sampled tokens: all of them for a
    method of tokens, the first alone for a method of calls. None: a method without a critic."""
    high_return: float | None = None
    """What the high head is trained towards at the call's first token; only where a segment begins, else None."""


@dataclass(frozen=True)
class CallValues:
    """What a critic said of one call: `tokens` as in `CallView.values`, `high` as in `CallView.high_value`."""

    tokens: tuple[float, ...]
    high: float | None = None


def valued(rollout: RolloutView, values: Mapping[str, CallValues]) -> RolloutView:
    """The same rollout with a critic's values, given by call id.

    Raises:
        BadInput: a call has no values, one too many or too few, or one that is not finite.
    """
    return replace(rollout, calls=tuple(_valued(rollout.id, call, values.get(call.id)) for call in rollout.calls))


def _valued(rollout_id: str, call: CallView, values: CallValues | None) -> CallView:
    where = f"call {call.id} of rollout {rollout_id}"
    if values is None:
        raise BadInput(f"{where} has no values; score all calls of the step with the critic before credit")
    if len(values.tokens) != call.num_tokens:
        raise BadInput(f"{where} has {len(values.tokens)} values, expected one per sampled token: {call.num_tokens}")
    if not all(math.isfinite(value) for value in (*values.tokens, values.high or 0.0)):
        raise BadInput(f"{where} has a value that is not finite; lower the critic's learning rate")
    return replace(call, values=values.tokens, high_value=values.high)
