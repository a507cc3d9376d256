"""A stored rollout as credit assignment sees it: what was asked and answered in canonical form, and segments.

Canonical means: what a framework makes up for each run (ids of messages and tool calls) is left out, keys are sorted,
white space is collapsed. Nothing else is: two states are equal only if the words are.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from leyden.errors import BadReward
from leyden.types import Attempt, Call, Reward, Rollout
from leyden_trainer.credit.group import CallView, RolloutView

__all__ = ["view", "view_agent"]

_MADE_UP = frozenset({"id", "tool_call_id", "index", "refusal", "annotations", "audio"})


def view(rollout: Rollout, calls: Sequence[Call], rewards: Sequence[Reward]) -> RolloutView:
    """Only answered calls of the policy are in it, in the order in which they were made.

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
    answered = [(call, call.answer) for call in calls if call.answer is not None and not call.context]
    answered.sort(key=lambda pair: (pair[0].started_at, pair[0].id))
    segments = _segments([call for call, _ in answered])
    return RolloutView(
        id=rollout.id,
        reward=sum(whole),
        calls=tuple(
            _call_view(call, answer, segment, sum(reward.value for reward in rewards if reward.call_id == call.id))
            for (call, answer), segment in zip(answered, segments, strict=True)
        ),
        agent_rewards=tuple(sorted(agents.items())),
        task=rollout.task_id,
    )


def _call_view(call: Call, answer: Attempt, segment: int, reward: float) -> CallView:
    agent = view_agent(call)
    messages = call.request.messages if call.request else ()
    new = messages
    for place, message in enumerate(messages):
        if message.get("role") == "assistant":
            new = messages[place + 1 :]
    return CallView(
        id=call.id,
        agent=agent,
        reward=reward,
        state=_hash(agent, messages) if messages else "",
        observation=_hash(agent, new) if new else "",
        action=_canonical([choice.message for choice in answer.choices]),
        segment=segment,
        num_tokens=sum(len(choice.token_ids or ()) for choice in answer.choices),
        num_choices=len(answer.choices),
    )


def view_agent(call: Call) -> str:
    """The path of the agent that called, as `CallView.agent` has it."""
    return "/".join(call.structure.agent) if call.structure else ""


def _segments(calls: Sequence[Call]) -> list[int]:
    """The number of each call's segment."""
    numbers: list[int] = []
    before: Call | None = None
    for call in calls:
        new = before is not None and (_place(call) != _place(before) or _handed_off(before))
        numbers.append(numbers[-1] + new if numbers else 0)
        before = call
    return numbers


def _place(call: Call) -> tuple[str, str | None]:
    return view_agent(call), call.structure.node if call.structure else None


def _handed_off(call: Call) -> bool:
    """Control left the agent after this call, even if an agent of the same name comes next."""
    return any(use.kind in ("handoff", "agent") for use in call.tools)


def _hash(agent: str, messages: Sequence[Any]) -> str:
    return hashlib.sha256(f"{agent}\n{_canonical(messages)}".encode()).hexdigest()[:16]


def _canonical(value: Any) -> str:
    return json.dumps(_cleaned(value), sort_keys=True, ensure_ascii=False)


def _cleaned(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _cleaned(v, name) for name, v in value.items() if name not in _MADE_UP and v is not None}
    if isinstance(value, list | tuple):
        return [_cleaned(item) for item in value]
    if isinstance(value, str):
        return _arguments(value) if key == "arguments" else " ".join(value.split())
    return value


def _arguments(text: str) -> Any:
    """A tool call's arguments as the object that they spell; text that is not JSON stays text."""
    try:
        return json.loads(text)
    except ValueError:
        return " ".join(text.split())
