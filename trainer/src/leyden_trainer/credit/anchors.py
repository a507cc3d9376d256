"""Methods that compare calls made in the same situation of the same task: an anchor is the agent and what it saw.

A call whose anchor occurs once has no step part; a call whose request was not recorded has no anchor.
"""

from collections import defaultdict
from typing import Literal

from leyden_trainer.credit.compare import Baseline, Scale, compare
from leyden_trainer.credit.group import Advantage, CallView, Group
from leyden_trainer.credit.relative import per_rollout
from leyden_trainer.credit.returns import call_rewards, to_go

__all__ = ["Anchor", "anchor_of", "c3", "gigpo"]

Anchor = Literal["observation", "state"]
"""observation: the agent and what is new to it. state: the agent and all that it was asked, its history too."""


def anchor_of(call: CallView, anchor: Anchor) -> str:
    """The call's anchor; its own id where nothing was recorded, so that it equals no other."""
    return (call.observation if anchor == "observation" else call.state) or f"alone {call.id}"


def gigpo(
    group: Group, *, gamma: float, weight: float, scale: Scale, anchor: Anchor = "observation"
) -> dict[str, Advantage]:
    """GiGPO (arXiv:2505.10978): the rollout's advantage plus ω times that of the call among calls with its anchor.

    The paper's anchor is the environment's observation; it matches equal text only, never nearly equal text.
    """
    steps = _among_anchors(group, gamma=gamma, scale=scale, anchor=anchor, baseline="mean")
    return {
        call_id: Advantage(
            whole.value + weight * steps[call_id].value,
            f"rollout {whole.reason}; call {steps[call_id].reason}" + (f", times {weight:g}" if weight != 1 else ""),
        )
        for call_id, whole in per_rollout(group, scale=scale).items()
    }


def c3(group: Group) -> dict[str, Advantage]:
    """The credit of C3 (arXiv:2603.06859): return minus the mean of the others that branched off the very same state.

    The paper replays a recorded context to sample such alternatives; here they are whatever rollouts of the group share
    the state, which without replays is the first call, and few later ones. Calls whose state occurs once get 0.
    """
    return _among_anchors(group, gamma=1.0, scale="none", anchor="state", baseline="leave_one_out")


def _among_anchors(
    group: Group, *, gamma: float, scale: Scale, anchor: Anchor, baseline: Baseline
) -> dict[str, Advantage]:
    sets: dict[str, list[tuple[CallView, float]]] = defaultdict(list)
    for rollout in group:
        for call, value in zip(rollout.calls, to_go(call_rewards(rollout), gamma), strict=True):
            sets[anchor_of(call, anchor)].append((call, value))
    advantages: dict[str, Advantage] = {}
    for calls in sets.values():
        whom = f"calls of {calls[0][0].agent or 'agents without a name'} in the same {anchor}"
        compared = compare([value for _, value in calls], whom, scale=scale, baseline=baseline)
        advantages |= {call.id: a for (call, _), a in zip(calls, compared, strict=True)}
    return advantages
