"""Task regression: what the decisions in all remembered rollouts of a task say of each decision. Ours.

`group_regression` over more than one group: the run remembers a task's earlier rollouts, and a decision counts under
its agent as well as under its anchor, so that what was learnt in one situation speaks in the next.
"""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leyden_trainer.credit.anchors import Anchor, anchor_of
from leyden_trainer.credit.group import Advantage, CallView, Group, RolloutView
from leyden_trainer.credit.relative import per_rollout
from leyden_trainer.credit.returns import total

__all__ = ["task_regression"]

Array = NDArray[Any]
Decision = tuple[str, str, str]
"""(agent, anchor, action), the latter two as hashes."""

RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Tried from strong to weak; a decision that is taken once weighs 1."""
SITUATION = 0.1
"""Prior variance of what a decision's effect has of its own at an anchor, beside its agent's 1."""


def task_regression(
    groups: Sequence[Group], memory: Mapping[str, Any], *, remember: int, evidence: float, anchor: Anchor
) -> tuple[dict[str, Advantage], dict[str, Any]]:
    """Credit each call with the effect of its decision on the task's returns, now and in earlier steps.

    Return = constant + Σ over calls of effect(agent, action) + effect(anchor, action), fitted by ridge regression to
    the task's rollouts of this step and of those before; the ridge is the one that best predicts a rollout left out. A
    call's advantage is its decision's effect minus the mean effect of the step's calls at the same anchor, divided by
    the deviation of the returns. It is `broadcast` where the fit takes less than the share `evidence` off the squared
    error of predicting a rollout left out, where no decision is shared by two rollouts (free text), and where an anchor
    recurs within a rollout, as the sum above is then wrong.

    Args:
        groups: of the step; those of one task are fitted together, and those without a task each alone.
        memory: task → [return, decisions] of its rollouts, the newest first.
        remember: at most so many rollouts of a task.
        evidence: from 0 to 1.
        anchor: which situations are the same.
    """
    advantages: dict[str, Advantage] = {}
    kept = dict(memory)
    tasks: dict[str, list[Group]] = defaultdict(list)
    for number, group in enumerate(groups):
        advantages |= per_rollout(group)
        tasks[group[0].task or f"\0{number}"].append(group)
    for task, members in tasks.items():
        rollouts = list(itertools.chain.from_iterable(members))
        new = [[total(rollout), [_decision(call, anchor) for call in rollout.calls]] for rollout in rollouts]
        seen = [*new, *kept.get(task, [])][: max(remember, len(new))]
        if not task.startswith("\0"):
            kept[task] = seen
        fit = _fitted([value for value, _ in seen], [[tuple(d) for d in made] for _, made in seen], evidence)
        if fit is not None:
            advantages |= _credited(rollouts, fit, anchor)
    return advantages, kept


@dataclass(frozen=True)
class _Fit:
    """Effects of decisions on the return, in its deviations."""

    by_agent: Mapping[tuple[str, str], float]
    by_anchor: Mapping[tuple[str, str], float]
    size: int
    explained: float

    def effect(self, decision: Decision) -> float:
        agent, anchor, action = decision
        return self.by_agent[agent, action] + self.by_anchor[anchor, action]


def _decision(call: CallView, anchor: Anchor) -> Decision:
    return call.agent, anchor_of(call, anchor), hashlib.sha256(call.action.encode()).hexdigest()[:16]


def _fitted(returns: Sequence[float], made: Sequence[Sequence[Decision]], evidence: float) -> _Fit | None:
    """None where the returns are equal, an anchor recurs, no decision is shared, or they explain too little."""
    y_N = np.array(returns) - np.mean(returns)
    if len(y_N) < 3 or np.ptp(y_N) == 0 or any(_recurs(decisions) for decisions in made):
        return None
    agents = [Counter((agent, action) for agent, _, action in decisions) for decisions in made]
    anchors = [Counter((anchor, action) for _, anchor, action in decisions) for decisions in made]
    agent_N_F, anchor_N_F = _counts(agents), _counts(anchors)
    # Without a shared one, only how many calls the rollouts made would tell them apart
    if ((agent_N_F > 0).sum(0) < 2).all():
        return None
    centre_N_N = np.eye(len(y_N)) - 1 / len(y_N)
    kernel_N_N = centre_N_N @ (agent_N_F @ agent_N_F.T + SITUATION * anchor_N_F @ anchor_N_F.T) @ centre_N_N
    solved = {ridge: np.linalg.inv(kernel_N_N + ridge * np.eye(len(y_N))) for ridge in RIDGES}
    errors = {ridge: _left_out(y_N, ridge * inverse) for ridge, inverse in solved.items()}
    best = min(RIDGES, key=errors.__getitem__)
    explained = 1 - errors[best] / _left_out(y_N, np.eye(len(y_N)))
    if explained < evidence:
        return None
    weight_N = centre_N_N @ solved[best] @ y_N / y_N.std()
    return _Fit(
        dict(zip(_names(agents), (agent_N_F.T @ weight_N).tolist(), strict=True)),
        dict(zip(_names(anchors), (SITUATION * anchor_N_F.T @ weight_N).tolist(), strict=True)),
        len(y_N),
        float(explained),
    )


def _left_out(y_N: Array, residual_N_N: Array) -> float:
    """Σ (error of predicting a row from the others)²: residual / (1 - leverage); the constant's leverage is 1/N."""
    leverage_N = 1 - np.diag(residual_N_N) + 1 / len(y_N)
    return float((((residual_N_N @ y_N) / np.maximum(1 - leverage_N, 1e-3)) ** 2).sum())


def _recurs(decisions: Sequence[Decision]) -> bool:
    return len({anchor for _, anchor, _ in decisions}) < len(decisions)


def _names(counted: Sequence[Counter[tuple[str, str]]]) -> list[tuple[str, str]]:
    return sorted(set(itertools.chain.from_iterable(counted)))


def _counts(counted: Sequence[Counter[tuple[str, str]]]) -> Array:
    """Shape (N, F), features in the order of `_names`."""
    names = _names(counted)
    return np.array([[row[name] for name in names] for row in counted], float)


def _credited(rollouts: Sequence[RolloutView], fit: _Fit, anchor: Anchor) -> dict[str, Advantage]:
    decisions = {call.id: _decision(call, anchor) for rollout in rollouts for call in rollout.calls}
    there: dict[str, list[float]] = defaultdict(list)
    for decision in decisions.values():
        there[decision[1]].append(fit.effect(decision))
    advantages: dict[str, Advantage] = {}
    for call_id, decision in decisions.items():
        usual = sum(there[decision[1]]) / len(there[decision[1]])
        value = fit.effect(decision) - usual
        reason = (
            f"{value:+.3g} deviations by its effect on {fit.size} rollouts of this task, of whose variance decisions "
            f"explain {fit.explained:.0%}; compared with the {len(there[decision[1]])} calls of this step in its place"
        )
        advantages[call_id] = Advantage(value, reason)
    return advantages
