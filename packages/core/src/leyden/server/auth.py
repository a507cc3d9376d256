"""What a request's key opens. Two kinds of key; see `leyden.keys`."""

from collections.abc import Iterable

from fastapi import Request

from leyden.errors import Forbidden, NoKey
from leyden.keys import Access, Keys
from leyden.types import Call, Reward

__all__ = ["NoKey", "access_of", "operator_only", "own_calls", "own_rewards"]


def access_of(request: Request) -> Access:
    """What the key in `Authorization: Bearer` (or Azure's `api-key`, Anthropic's `x-api-key`) opens.

    Raises:
        Forbidden: there is none, or it is wrong.
    """
    keys: Keys = request.app.state.keys
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not key:
        key = request.headers.get("api-key") or request.headers.get("x-api-key", "")
    if not key:
        raise NoKey(f"{request.url.path} needs a key: send Authorization: Bearer KEY")
    return keys.open(key.strip())


def operator_only(request: Request) -> None:
    """Let only the operator's key through.

    Raises:
        Forbidden: it is a rollout's key, or none.
    """
    access = access_of(request)
    if not access.operator:
        raise Forbidden(f"the key of rollout {access.rollout_id} does not open {request.url.path}; the operator's does")


def own_calls(access: Access, calls: Iterable[Call]) -> None:
    """Refuse calls of another rollout or attempt.

    Raises:
        Forbidden: naming the first.
    """
    for call in calls:
        _check_own(access, call.rollout_id, call.attempt, f"call {call.id}")


def own_rewards(access: Access, rewards: Iterable[Reward]) -> list[Reward]:
    """The rewards as this key may give them: an agent's process cannot pose as the grader.

    Raises:
        Forbidden: a reward is for another rollout or attempt.
    """
    given = list(rewards)
    for reward in given:
        _check_own(access, reward.rollout_id, reward.attempt, f"reward {reward.id}")
    return given if access.operator else [reward.model_copy(update={"source": "agent"}) for reward in given]


def _check_own(access: Access, rollout_id: str | None, attempt: int, what: str) -> None:
    if not access.operator and (rollout_id, attempt) != (access.rollout_id, access.attempt):
        raise Forbidden(
            f"the key opens attempt {access.attempt} of rollout {access.rollout_id}; "
            f"{what} is for attempt {attempt} of {rollout_id}"
        )
