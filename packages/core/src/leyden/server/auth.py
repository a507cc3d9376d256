"""What a request's key opens. Two kinds of key, operators' and rollouts'; see `leyden.keys`."""

from collections.abc import Awaitable, Callable, Iterable

from fastapi import Request

from leyden.errors import Forbidden, NoKey
from leyden.gateway.rollouts import check_running
from leyden.key_file import Role
from leyden.keys import Access, Keys
from leyden.server.limits import Rates
from leyden.store.protocol import Store
from leyden.types import Call, Reward, RewardFrom

__all__ = ["NoKey", "access_of", "only", "own_calls", "own_rewards", "rewarding_allowed", "still_open", "writer"]


_OPENED = "leyden.access"
"""Where a request keeps what its key opened: several layers ask, and a rollout's requests are counted."""


def access_of(request: Request) -> Access:
    """What the key in `Authorization: Bearer` (or Azure's `api-key`, Anthropic's `x-api-key`) opens.

    Raises:
        Forbidden: there is none, or it is wrong.
        OverLimit: its rollout asks too often.
    """
    known: Access | None = request.scope.get(_OPENED)
    if known is not None:
        return known
    keys: Keys = request.app.state.keys
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not key:
        key = request.headers.get("api-key") or request.headers.get("x-api-key", "")
    if not key:
        raise NoKey(f"{request.url.path} needs a key: send Authorization: Bearer KEY")
    access = request.scope[_OPENED] = keys.open(key.strip())
    if access.rollout_id is not None:
        rates: Rates = request.app.state.rates
        rates.count(access.rollout_id, access.attempt)
    return access


def only(role: Role) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets through the keys of operators with this role, or a higher one (read < run < train).

    It is a coroutine, since FastAPI runs plain functions in a thread of its pool.
    """

    async def check(request: Request) -> None:
        access = access_of(request)
        if not access.allows(role):
            raise Forbidden(
                f"{access} does not open {request.method} {request.url.path}; an operator's key with role {role} does"
            )

    return check


async def writer(request: Request) -> None:
    """Let through the keys that may write records: those of rollouts, and of operators with role run."""
    access = access_of(request)
    if access.rollout_id is None and not access.allows("run"):
        raise Forbidden(f"{access} writes nothing; an operator's key with role run does")


def own_calls(access: Access, calls: Iterable[Call]) -> None:
    """Refuse calls of another rollout or attempt, and an agent's own that say what only the gateway can know.

    Raises:
        Forbidden: naming the first.
    """
    for call in calls:
        _check_own(access, call.rollout_id, call.attempt, f"call {call.id}")
        if access.rollout_id is not None and _poses_as_gateway(call):
            raise Forbidden(f"call {call.id}: only the gateway tells of tokens and versions; send it without them")


def own_rewards(access: Access, rewards: Iterable[Reward]) -> list[Reward]:
    """The rewards as this key may give them: an agent's process cannot pose as the grader.

    Raises:
        Forbidden: a reward is for another rollout or attempt.
    """
    given = list(rewards)
    for reward in given:
        _check_own(access, reward.rollout_id, reward.attempt, f"reward {reward.id}")
    return given if access.rollout_id is None else [reward.model_copy(update={"source": "agent"}) for reward in given]


def _poses_as_gateway(call: Call) -> bool:
    sampled = [choice for attempt in call.attempts for choice in attempt.choices]
    tokens = [choice.token_ids or choice.logprobs for choice in sampled]
    told = [attempt.prompt_token_ids or attempt.version is not None for attempt in call.attempts]
    return "gateway" in call.captured_by or any(tokens) or any(told)


async def still_open(store: Store, access: Access) -> None:
    """Let a rollout's key write only while its attempt runs. Read anew each time: a key ends when its attempt does.

    Raises:
        LeaseLost: it does not run (any more).
    """
    if access.rollout_id is not None:
        check_running(await store.rollout(access.rollout_id), access.attempt or 0)


async def rewarding_allowed(store: Store, access: Access, server: RewardFrom) -> None:
    """Refuse rewards by a rollout's key where the server, or the rollout, takes those of graders alone.

    Raises:
        Forbidden: it is such a key.
    """
    if access.rollout_id is None:
        return
    if server == "grader" or (await store.rollout(access.rollout_id)).reward_from == "grader":
        raise Forbidden(
            f'rollout {access.rollout_id} takes rewards of graders only (reward_from = "grader"); take '
            'leyden.reward(...) out of the agent, or set reward_from = "any"'
        )


def _check_own(access: Access, rollout_id: str | None, attempt: int, what: str) -> None:
    if access.rollout_id is not None and (rollout_id, attempt) != (access.rollout_id, access.attempt):
        raise Forbidden(
            f"the key opens attempt {access.attempt} of rollout {access.rollout_id}; "
            f"{what} is for attempt {attempt} of {rollout_id}"
        )
