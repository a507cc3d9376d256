"""What an agent may say for itself, if it wants to: a reward, and which rollout it is."""

import logging
from dataclasses import dataclass

from leyden.scope import current_scope
from leyden.types import Reward, reward_value

__all__ = ["Current", "current", "reward"]

_log = logging.getLogger("leyden")


@dataclass(frozen=True)
class Current:
    """The rollout that the running code works for."""

    rollout_id: str
    attempt: int


def current() -> Current | None:
    """The rollout that this code works for; None outside any."""
    scope = current_scope()
    return None if scope is None else Current(scope.rollout_id, scope.attempt)


def reward(value: float, *, name: str = "reward", agent: str | None = None, call_id: str | None = None) -> None:
    """Give a reward to the current rollout, or to one agent or one call of it. Outside a rollout it only logs.

    Raises:
        BadReward: `value` is not a finite number or a bool.
    """
    number = reward_value(value)
    scope = current_scope()
    given = Reward(
        rollout_id=scope.rollout_id if scope else "",
        attempt=scope.attempt if scope else 0,
        value=number,
        name=name,
        source="agent",
        agent=agent,
        call_id=call_id,
    )
    if scope is None:
        _log.warning("leyden.reward(%r) was called outside a rollout and is not recorded", value)
        return
    from leyden.recorder import recorder  # an HTTP client, which `import leyden` does without

    recorder.record(scope, given)
