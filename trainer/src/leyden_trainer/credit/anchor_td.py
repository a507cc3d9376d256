"""TD(λ) from call to call of one agent, over a table of anchors that is carried from step to step. Ours.

TD(λ) (Sutton 1988) with a table where Turn-PPO has a critic, and with GiGPO's anchors (arXiv:2505.10978) as its rows.
An agent's next state is that of its own next call: what others do between is part of the environment.
"""

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from leyden_trainer.credit.anchors import Anchor, anchor_of
from leyden_trainer.credit.compare import EPSILON, said
from leyden_trainer.credit.group import Advantage, Group, RolloutView
from leyden_trainer.credit.relative import per_rollout
from leyden_trainer.credit.returns import call_rewards, to_go, total

__all__ = ["anchor_td"]

Seen = list[float]
"""[weight of the visits, their weighted sum of returns-to-go]."""

PRIOR = 1.0
"""How many visits with the step's mean return every anchor starts from. Where a task fails, that is more than its known
anchors are worth: reaching one that few rollouts have seen is credited, which is what finds rare successes."""

FORGOTTEN = 0.01
"""Rows of less weight are dropped, so that the memory does not grow with the number of steps."""


def anchor_td(
    groups: Sequence[Group], memory: Mapping[str, Seen], *, lam: float, decay: float, share: float, anchor: Anchor
) -> tuple[dict[str, Advantage], dict[str, Seen]]:
    """Credit a call with how much better off its agent is at its next call, plus `share` of `broadcast`.

    The worth of an anchor is the mean return-to-go of the calls made there, this step's and, by `decay` per step, the
    earlier ones of the same task. γ is 1. A task is known by what its first call was asked. Over the step the TD part
    has the root mean square of `broadcast`'s, so that a learning rate means the same; a group of equals learns too,
    from what earlier steps have seen, unless the whole step is without a difference. A group of one has advantage 0.
    """
    table = {key: [decay * weight, decay * returns] for key, (weight, returns) in memory.items()}
    rows: dict[str, str] = {}
    for group in groups:
        task = min((rollout.calls[0].state for rollout in group if rollout.calls), default="")
        for rollout in group:
            for call, value in zip(rollout.calls, to_go(call_rewards(rollout), 1.0), strict=True):
                rows[call.id] = _row(task, anchor_of(call, anchor), call.id)
                seen = table.setdefault(rows[call.id], [0.0, 0.0])
                seen[0] += 1
                seen[1] += value
    ahead: dict[str, float] = {}
    worth: dict[str, float] = {}
    compared = [group for group in groups if len(group) > 1]
    everything = [total(rollout) for group in compared for rollout in group]
    usual = math.fsum(everything) / max(len(everything), 1)
    for group in compared:
        for call in (call for rollout in group for call in rollout.calls):
            weight, returns = table[rows[call.id]]
            worth[call.id] = (returns + PRIOR * usual) / (weight + PRIOR)
        ahead |= {k: v for rollout in group for k, v in _ahead(rollout, worth, lam).items()}
    advantages = {k: a for group in groups for k, a in per_rollout(group).items()}
    advantages |= _mixed(advantages, ahead, worth, share)
    # A call without an anchor has a row of its own, which nothing will meet again
    lasting = {row for call_id, row in rows.items() if row != call_id} | set(memory)
    return advantages, {key: seen for key, seen in table.items() if key in lasting and seen[0] >= FORGOTTEN}


def _row(task: str, anchor: str, call_id: str) -> str:
    """The key of the table; the call's own id where task or anchor were not recorded."""
    if not task or anchor == f"alone {call_id}":
        return call_id
    return hashlib.sha256(f"{len(task)} {task}{anchor}".encode()).hexdigest()[:24]


def _ahead(rollout: RolloutView, worth: Mapping[str, float], lam: float) -> dict[str, float]:
    """TD(λ) along each agent's own calls: Σ λ^k δ, δ = rewards up to its next call + worth there - worth here."""
    returns = to_go(call_rewards(rollout), 1.0)
    chains: dict[str, list[int]] = defaultdict(list)
    for place, call in enumerate(rollout.calls):
        chains[call.agent].append(place)
    ahead: dict[str, float] = {}
    for chain in chains.values():
        later, next_return, next_worth = 0.0, 0.0, 0.0
        for place in reversed(chain):
            call = rollout.calls[place]
            later = returns[place] - next_return + next_worth - worth[call.id] + lam * later
            next_return, next_worth = returns[place], worth[call.id]
            ahead[call.id] = later
    return ahead


def _mixed(
    broadcast: Mapping[str, Advantage], ahead: Mapping[str, float], worth: Mapping[str, float], share: float
) -> dict[str, Advantage]:
    size = math.sqrt(math.fsum(value * value for value in ahead.values()))
    wanted = math.sqrt(math.fsum(a.value * a.value for a in broadcast.values()))
    if size < EPSILON or wanted == 0.0:
        return {}
    return {
        call_id: Advantage(
            (1 - share) * value * wanted / size + share * broadcast[call_id].value,
            f"its agent's next situation: {said(value, f'this one, worth {worth[call_id]:.3g}')}; "
            f"{share:g} of: rollout {broadcast[call_id].reason}",
        )
        for call_id, value in ahead.items()
    }
