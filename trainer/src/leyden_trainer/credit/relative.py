"""Methods that compare rewards within the task's group and need no critic: what differs is who is compared with whom.

Every function maps one group to advantages by call id, except `reinforce_plus_plus` and `rae`, which need the step.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

from leyden_trainer.credit.compare import Baseline, Scale, compare, said
from leyden_trainer.credit.group import Advantage, CallView, Group
from leyden_trainer.credit.returns import agent_total, call_rewards, to_go, total

__all__ = [
    "dr_mas",
    "floored",
    "mt_grpo",
    "per_rollout",
    "rae",
    "reinforce_plus_plus",
    "return_to_go",
    "weighted_moments",
]

ROLLOUTS = "rollouts of this task"


def per_rollout(group: Group, *, baseline: Baseline = "mean", scale: Scale = "std") -> dict[str, Advantage]:
    """Every call has its rollout's advantage; each rollout counts once, however many calls it made.

    LightningRL (arXiv:2508.03680), GRPO (2402.03300), Dr. GRPO (2503.20783, no scale), RLOO (2402.14740, leave one
    out).
    """
    compared = compare([total(rollout) for rollout in group], ROLLOUTS, baseline=baseline, scale=scale)
    return {call.id: a for rollout, a in zip(group, compared, strict=True) for call in rollout.calls}


def reinforce_plus_plus(groups: Sequence[Group]) -> dict[str, Advantage]:
    """REINFORCE++ with a baseline (arXiv:2501.03262): the group's mean is subtracted, the scale is the whole step's.

    Mean and deviation of the step are over sampled tokens, as the paper's whitening is.
    """
    raw = {k: a for group in groups for k, a in per_rollout(group, scale="none").items()}
    tokens = {call.id: call.num_tokens for group in groups for rollout in group for call in rollout.calls}
    mean, std = weighted_moments([a.value for a in raw.values()], [tokens[k] for k in raw])
    if std == 0.0:
        return raw
    return {
        k: Advantage((a.value - mean) / floored(std), f"{a.reason}; divided by {std:.3g}, the deviation over the step")
        for k, a in raw.items()
    }


def weighted_moments(values: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """Mean and sample standard deviation of values that occur so many times; (0, 0) for equal values, or for one."""
    number = sum(counts)
    if number < 2 or min(values) == max(values):
        return 0.0, 0.0
    mean = sum(v * n for v, n in zip(values, counts, strict=True)) / number
    variance = sum(n * (v - mean) ** 2 for v, n in zip(values, counts, strict=True)) / (number - 1)
    return mean, variance**0.5


def floored(std: float) -> float:
    """A deviation to divide by: at least 1e-4, so that float noise is not blown up."""
    return (std**2 + 1e-8) ** 0.5


def dr_mas(group: Group) -> dict[str, Advantage]:
    """Dr. MAS (arXiv:2602.08847): each agent's calls are normalised among themselves, over all in the task's group."""
    returns = {call.id: total(rollout) for rollout in group for call in rollout.calls}
    return _among_agents(group, returns)


def return_to_go(group: Group, *, gamma: float, per_agent: bool = False) -> dict[str, Advantage]:
    """Discounted return-to-go (REINFORCE, Williams 1992): a call is credited with what came after it.

    With `per_agent` the steps are the agent's own calls, each agent gets the rollout's reward at its last call, and
    calls are compared with those of the same agent.
    """
    returns: dict[str, float] = {}
    for rollout in group:
        if not per_agent:
            pairs = zip(rollout.calls, to_go(call_rewards(rollout), gamma), strict=True)
            returns |= {call.id: value for call, value in pairs}
            continue
        for agent in dict.fromkeys(call.agent for call in rollout.calls):
            mine = [call for call in rollout.calls if call.agent == agent]
            rewards = [call.reward for call in mine]
            rewards[-1] += agent_total(rollout, agent) - sum(rewards)
            returns |= {call.id: v for call, v in zip(mine, to_go(rewards, gamma), strict=True)}
    if per_agent:
        return _among_agents(group, returns)
    compared = compare(list(returns.values()), "calls for this task")
    return dict(zip(returns, compared, strict=True))


def _among_agents(group: Group, returns: Mapping[str, float]) -> dict[str, Advantage]:
    sets: dict[str, list[CallView]] = defaultdict(list)
    for rollout in group:
        for call in rollout.calls:
            sets[call.agent].append(call)
    advantages: dict[str, Advantage] = {}
    for agent, calls in sets.items():
        whom = f"calls of {agent or 'agents without a name'} for this task"
        compared = compare([returns[call.id] for call in calls], whom)
        advantages |= {call.id: a for call, a in zip(calls, compared, strict=True)}
    return advantages


def mt_grpo(group: Group, *, weight: float) -> dict[str, Advantage]:
    """MT-GRPO (arXiv:2505.11821): the turn's own reward among the same turns of the group, plus λ times the outcome's.

    A turn's reward is the one given to that call; the outcome is what was given to the rollout and its agents. Without
    rewards on calls it is λ times `broadcast`.
    """
    outcomes = compare([total(r) - sum(call.reward for call in r.calls) for r in group], ROLLOUTS)
    advantages: dict[str, Advantage] = {}
    for turn in range(max((len(rollout.calls) for rollout in group), default=0)):
        there = [(r.calls[turn], o) for r, o in zip(group, outcomes, strict=True) if turn < len(r.calls)]
        turns = compare([call.reward for call, _ in there], f"calls number {turn + 1} of this task")
        for (call, outcome), own in zip(there, turns, strict=True):
            reason = f"outcome {outcome.reason}, times {weight:g}; call {own.reason}"
            advantages[call.id] = Advantage(own.value + weight * outcome.value, reason)
    return advantages


def rae(
    groups: Sequence[Group], memory: Mapping[str, float], *, decay: float
) -> tuple[dict[str, Advantage], dict[str, float]]:
    """Role-conditioned advantage (SPIRAL, arXiv:2506.24119): what an agent earned minus its running mean over steps.

    All rollouts of a step are scored against the mean of the steps before, which starts at 0; then n rollouts move it
    as n equal rewards would have: decay^n of the old, the rest of their mean. The published one moves after each
    rollout, so that the order of arrival matters; here it does not.
    """
    earned: dict[str, list[float]] = defaultdict(list)
    advantages: dict[str, Advantage] = {}
    for rollout in (rollout for group in groups for rollout in group):
        for agent in dict.fromkeys(call.agent for call in rollout.calls):
            value, usual = agent_total(rollout, agent), memory.get(agent, 0.0)
            earned[agent].append(value)
            reason = said(value - usual, f"the running mean {usual:.3g} of {agent or 'agents without a name'}")
            mine = Advantage(value - usual, reason)
            advantages |= {call.id: mine for call in rollout.calls if call.agent == agent}
    moved = {
        agent: decay ** len(values) * memory.get(agent, 0.0) + (1 - decay ** len(values)) * statistics.fmean(values)
        for agent, values in earned.items()
    }
    return advantages, {**memory, **moved}
