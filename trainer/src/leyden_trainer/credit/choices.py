"""The choices that a method is made of: which return a call has, with whom it is compared, and on what scale.

A method is one `Choices` value; see `methods.py`. Every function here maps numbers to numbers.
"""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from leyden_trainer.credit.group import Advantage, CallView, Group, RolloutView

__all__ = ["Choices", "assign_by"]


@dataclass(frozen=True)
class Choices:
    """One method of group-relative credit."""

    returns: Literal["rollout", "to_go", "agent_to_go"] = "rollout"
    """rollout: every call has its rollout's whole return (the agents' and calls' rewards too).
    to_go: Σ γ^(k-t) r_k over the rollout's later calls, the rollout's reward falling on the last call, an agent's on
    its last. agent_to_go: the same over the calls of the call's own agent; each agent gets the rollout's reward."""
    gamma: float = 1.0
    compare: Literal["rollouts", "agent"] = "rollouts"
    """rollouts: with all of the task's group. agent: with the calls of the same agent in the task's group."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    scale: Literal["std", "none"] = "std"
    """std: divide by the sample standard deviation (n - 1) plus `epsilon`."""
    epsilon: float = 1e-4


def assign_by(choices: Choices, group: Group) -> dict[str, Advantage]:
    """One advantage per call. A set of one, or of equals, has advantage 0."""
    if choices.returns == "rollout" and choices.compare == "rollouts":
        return _per_rollout(choices, group)
    returns = {call.id: value for rollout in group for call, value in _returns(choices, rollout)}
    sets: dict[str, list[CallView]] = defaultdict(list)
    for rollout in group:
        for call in rollout.calls:
            sets[call.agent if choices.compare == "agent" else ""].append(call)
    advantages: dict[str, Advantage] = {}
    for agent, calls in sets.items():
        whom = (
            f"calls of {agent or 'agents without a name'} for this task"
            if choices.compare == "agent"
            else "calls for this task"
        )
        compared = _compare(choices, [returns[call.id] for call in calls], whom)
        advantages |= {call.id: advantage for call, advantage in zip(calls, compared, strict=True)}
    return advantages


def _per_rollout(choices: Choices, group: Group) -> dict[str, Advantage]:
    """Each rollout counts once, however many calls it made."""
    compared = _compare(choices, [_total(rollout) for rollout in group], "rollouts of this task")
    return {call.id: a for rollout, a in zip(group, compared, strict=True) for call in rollout.calls}


def _total(rollout: RolloutView) -> float:
    return (
        rollout.reward + sum(value for _, value in rollout.agent_rewards) + sum(call.reward for call in rollout.calls)
    )


def _compare(choices: Choices, returns: Sequence[float], whom: str) -> list[Advantage]:
    if len(returns) < 2:
        return [Advantage(0.0, f"alone among the {whom}: nothing to compare with") for _ in returns]
    if min(returns) == max(returns):
        return [Advantage(0.0, f"all {len(returns)} {whom} got {value:.3g}") for value in returns]
    scale = statistics.stdev(returns) + choices.epsilon if choices.scale == "std" else 1.0
    total = sum(returns)
    compared: list[Advantage] = []
    for value in returns:
        others = choices.baseline == "leave_one_out"
        baseline = (total - value) / (len(returns) - 1) if others else total / len(returns)
        side = "above" if value >= baseline else "below"
        reason = f"{abs(value - baseline):.3g} {side} the mean {baseline:.3g} of the {len(returns) - others} "
        compared.append(Advantage((value - baseline) / scale, f"{reason}{'other ' if others else ''}{whom}"))
    return compared


def _returns(choices: Choices, rollout: RolloutView) -> list[tuple[CallView, float]]:
    if choices.returns == "rollout":
        return [(call, _total(rollout)) for call in rollout.calls]
    if choices.returns == "to_go":
        return _to_go(choices.gamma, rollout.calls, _last_of_agents(rollout), rollout.reward)
    agents = dict.fromkeys(call.agent for call in rollout.calls)
    pairs: list[tuple[CallView, float]] = []
    for agent in agents:
        mine = [call for call in rollout.calls if call.agent == agent]
        pairs += _to_go(choices.gamma, mine, _last_of_agents(rollout), rollout.reward)
    return pairs


def _last_of_agents(rollout: RolloutView) -> Callable[[CallView], float]:
    """What a call gets because it is the last of its agent."""
    last = {call.agent: call.id for call in rollout.calls}
    given = {last[agent]: value for agent, value in rollout.agent_rewards if agent in last}
    return lambda call: given.get(call.id, 0.0)


def _to_go(
    gamma: float, calls: Sequence[CallView], extra: Callable[[CallView], float], final: float
) -> list[tuple[CallView, float]]:
    pairs: list[tuple[CallView, float]] = []
    value = final
    for place, call in enumerate(reversed(calls)):
        value = call.reward + extra(call) + (gamma * value if place else value)
        pairs.append((call, value))
    return pairs[::-1]
