"""What credit assignment sees of a group: numbers and names, nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass

from leyden.errors import BadReward
from leyden.types import Call, Reward, Rollout

__all__ = ["Advantage", "CallView", "Group", "RolloutView", "view"]


@dataclass(frozen=True)
class CallView:
    """One call that may be learnt from. `agent` is its path joined by "/", empty if it is unknown."""

    id: str
    agent: str
    reward: float = 0.0
    """The sum of the rewards given to this very call."""


@dataclass(frozen=True)
class RolloutView:
    """One member of a group. `calls` are in the order in which they were made."""

    id: str
    reward: float
    """The sum of the rewards of the rollout as a whole."""
    calls: tuple[CallView, ...]
    agent_rewards: tuple[tuple[str, float], ...] = ()
    """(agent, sum of the rewards given to it)."""


Group = Sequence[RolloutView]
"""Rollouts of one task."""


@dataclass(frozen=True)
class Advantage:
    """What a call is trained with, and against what it was compared, in words."""

    value: float
    reason: str


def view(rollout: Rollout, calls: Sequence[Call], rewards: Sequence[Reward]) -> RolloutView:
    """A stored rollout as credit assignment sees it.

    Raises:
        BadReward: it has no reward as a whole; absent is not 0.
    """
    whole = [reward.value for reward in rewards if reward.agent is None and reward.call_id is None]
    if not whole:
        raise BadReward(f"rollout {rollout.id} has no reward; it is incomplete and may not be compared")
    agents: dict[str, float] = {}
    for reward in rewards:
        if reward.agent is not None and reward.call_id is None:
            agents[reward.agent] = agents.get(reward.agent, 0.0) + reward.value
    answered = [call for call in calls if call.answer is not None and not call.context]
    answered.sort(key=lambda call: (call.started_at, call.id))
    return RolloutView(
        id=rollout.id,
        reward=sum(whole),
        calls=tuple(_call_view(call, rewards) for call in answered),
        agent_rewards=tuple(sorted(agents.items())),
    )


def _call_view(call: Call, rewards: Sequence[Reward]) -> CallView:
    agent = "/".join(call.structure.agent) if call.structure else ""
    return CallView(call.id, agent, sum(reward.value for reward in rewards if reward.call_id == call.id))
