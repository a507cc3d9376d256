"""Group regression attribution: which recorded decisions explain the rewards within a task's group. Ours.

A linear, ridge form of direct advantage estimation (arXiv:2109.06093) on one group: no critic, no history, no extra
rollouts. Where decisions do not repeat, or do not predict the reward of a rollout left out, it is `broadcast` exactly.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leyden_trainer.credit.anchors import Anchor, anchor_of
from leyden_trainer.credit.compare import EPSILON
from leyden_trainer.credit.group import Advantage, Group
from leyden_trainer.credit.relative import per_rollout
from leyden_trainer.credit.returns import total

__all__ = ["group_regression"]

Array = NDArray[Any]

RIDGES = (30.0, 10.0, 3.0, 1.0, 0.3)
"""Tried from strong to weak; a decision that is taken once weighs 1."""


def group_regression(group: Group, *, share: float, anchor: Anchor = "observation") -> dict[str, Advantage]:
    """Credit each call with the effect of its decision, plus `share` of what no decision explains.

    A decision is (anchor, action). Its effect is relative to the group's average decision at that anchor, so that a
    situation's own worth is credited to the calls that led to it. The effects are fitted by ridge regression to the
    returns; the ridge is the one that best predicts each rollout from the others, and none is fitted unless that
    beats the others' mean. The result has the root mean square of `broadcast`'s, so a learning rate means the same.
    """
    broadcast = per_rollout(group)
    decisions = _Decisions.of(group, anchor)
    returns_G = np.array([total(rollout) for rollout in group])
    ridge = _best_ridge(decisions, returns_G)
    if ridge is None:
        return broadcast
    effects_F = decisions.effects(returns_G, ridge)
    values: dict[str, float] = {}
    for rollout, above in zip(group, returns_G - returns_G.mean(), strict=True):
        own = [effects_F[decisions.number[anchor_of(call, anchor), call.action]] for call in rollout.calls]
        rest = share * (above - math.fsum(own))
        values |= {call.id: float(effect + rest) for call, effect in zip(rollout.calls, own, strict=True)}
    size = math.sqrt(math.fsum(v * v for v in values.values()))
    wanted = math.sqrt(math.fsum(a.value * a.value for a in broadcast.values()))
    if size < EPSILON:
        return broadcast
    return {
        call_id: Advantage(
            value * wanted / size,
            f"{value:+.3g} by its effect on the {len(group)} rollouts of this task (ridge {ridge:g}); "
            f"rollout {broadcast[call_id].reason}",
        )
        for call_id, value in values.items()
    }


@dataclass(frozen=True)
class _Decisions:
    """How often each rollout took each decision. F decisions, G rollouts."""

    number: dict[tuple[str, str], int]
    counts_G_F: Array
    same_F_F: Array
    """1 where two decisions have the same anchor."""

    @classmethod
    def of(cls, group: Group, anchor: Anchor) -> "_Decisions":
        taken = [[(anchor_of(call, anchor), call.action) for call in rollout.calls] for rollout in group]
        # In sorted order, so that the order of arrival does not change a rounding
        number = {decision: n for n, decision in enumerate(sorted({d for of in taken for d in of}))}
        counts = np.zeros((len(group), len(number)))
        for row, of in enumerate(taken):
            for decision in of:
                counts[row, number[decision]] += 1
        anchors = np.array([place for place, _ in number])
        return cls(number, counts, (anchors[:, None] == anchors[None, :]).astype(float))

    def without(self, row: int) -> "_Decisions":
        return _Decisions(self.number, np.delete(self.counts_G_F, row, axis=0), self.same_F_F)

    def shares(self) -> Array:
        """How often each decision was taken, among those at its anchor; shape (F,)."""
        taken_F = self.counts_G_F.sum(0)
        return taken_F / np.maximum(self.same_F_F @ taken_F, 1)

    def centred(self, counts_G_F: Array) -> Array:
        """Counts minus what the group's average decision at the same anchors would have given."""
        return counts_G_F - (counts_G_F @ self.same_F_F) * self.shares()

    def effects(self, returns_G: Array, ridge: float) -> Array:
        """Each decision's effect on the return, relative to the average decision at its anchor."""
        centred_G_F = self.centred(self.counts_G_F)
        kernel_G_G = centred_G_F @ centred_G_F.T + ridge * np.eye(len(returns_G))
        raw_F = centred_G_F.T @ np.linalg.solve(kernel_G_G, returns_G - returns_G.mean())
        return raw_F - self.same_F_F @ (self.shares() * raw_F)


def _best_ridge(decisions: _Decisions, returns_G: Array) -> float | None:
    """The ridge that predicts rollouts left out best; None if the mean of the others predicts them as well."""
    size = len(returns_G)
    errors = dict.fromkeys(RIDGES, 0.0)
    null = 0.0
    for row in range(size):
        others, known = decisions.without(row), np.delete(returns_G, row)
        surprise = returns_G[row] - known.mean()
        null += surprise**2
        taken_F = decisions.counts_G_F[row]
        for ridge in RIDGES:
            errors[ridge] += (surprise - taken_F @ others.effects(known, ridge)) ** 2
    best = min(RIDGES, key=lambda ridge: errors[ridge])
    # 1 %: a tie, or float noise, is no evidence
    return best if errors[best] < 0.99 * null else None
