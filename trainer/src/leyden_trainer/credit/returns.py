"""What a rollout and each of its calls earned. A rollout's reward falls on its last call, an agent's on its last.

Nothing is lost: a reward to an agent that made no call falls on the rollout's last call.
"""

from collections.abc import Sequence

from leyden_trainer.credit.group import RolloutView

__all__ = ["agent_total", "call_rewards", "is_agent", "to_go", "total"]


def total(rollout: RolloutView) -> float:
    """The rollout's whole return: its own reward, its agents' and its calls'."""
    return (
        rollout.reward + sum(value for _, value in rollout.agent_rewards) + sum(call.reward for call in rollout.calls)
    )


def agent_total(rollout: RolloutView, agent: str) -> float:
    """What one agent earned: the rollout's reward, which all share, its own, and its calls'."""
    own = sum(value for name, value in rollout.agent_rewards if is_agent(agent, name))
    return rollout.reward + own + sum(call.reward for call in rollout.calls if call.agent == agent)


def call_rewards(rollout: RolloutView) -> list[float]:
    """One reward per call; their sum is `total`."""
    rewards = [call.reward for call in rollout.calls]
    if rewards:
        rewards[-1] += rollout.reward
    for name, value in rollout.agent_rewards:
        mine = [place for place, call in enumerate(rollout.calls) if is_agent(call.agent, name)]
        if rewards:
            rewards[mine[-1] if mine else -1] += value
    return rewards


def to_go(rewards: Sequence[float], gamma: float) -> list[float]:
    """Σ γ^(k-t) r_k over k ≥ t, for each t."""
    found: list[float] = []
    value = 0.0
    for reward in reversed(rewards):
        value = reward + gamma * value
        found.append(value)
    return found[::-1]


def is_agent(path: str, name: str) -> bool:
    """Whether an agent's path has this name: the whole path, or its last part."""
    return name in (path, path.rpartition("/")[2])
