"""The store's verbs over HTTP, one route each; ARCHITECTURE.md has the table."""

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from leyden.errors import BadInput, LeydenError
from leyden.gateway.measures import Measures
from leyden.keys import Keys
from leyden.server import bodies
from leyden.server.auth import access_of, only, own_calls, own_rewards, rewarding_allowed, still_open, writer
from leyden.server.strict import StrictRoute
from leyden.server.verb_door import Check, VerbDoor
from leyden.server.waiting import while_wanted
from leyden.store.protocol import Store
from leyden.types import Call, Claim, Endpoint, Mode, Outcome, Page, RewardFrom, Rollout, RolloutStatus

__all__ = ["Api"]

_PREFIX = "/api"


class Api:
    """All routes under /api, with the check of keys for each: as FastAPI declares them, and as their own door."""

    def __init__(self, store: Store, keys: Keys, measures: Measures, *, reward_from: RewardFrom) -> None:
        # Those that are asked for most first: FastAPI looks at one after the other.
        self._routers: tuple[tuple[APIRouter, Check], ...] = (
            (_writing(store, measures, reward_from), writer),
            (_running(store, keys), only("run")),
            (_rollouts(store), only("read")),
            (_records(store), only("read")),
            (_training(store), only("train")),
            (_runs(store), only("read")),
            (_noting(store), only("train")),
        )

    def router(self) -> APIRouter:
        """For FastAPI."""
        whole = APIRouter(prefix=_PREFIX)
        for router, check in self._routers:
            whole.include_router(router, dependencies=[Depends(check)])
        return whole

    def door(self, others: ASGIApp, refusal: Callable[[LeydenError], Response]) -> VerbDoor:
        """For what is asked often; the rest goes on to `others`."""
        return VerbDoor(self._routers, others, refusal, prefix=_PREFIX)


def _rollouts(store: Store) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, prefix="/rollouts", tags=["rollouts"])

    @router.get("")
    async def rollouts(
        after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        run: str | None = None,
        group_id: str | None = None,
        mode: Mode | None = None,
        status: RolloutStatus | None = None,
    ) -> Page:
        """Rollouts in the order of queueing, after a cursor."""
        return await store.rollouts(after=after, limit=limit, run=run, group_id=group_id, mode=mode, status=status)

    @router.post("/wait")
    async def wait(body: bodies.WaitRequest, request: Request) -> bodies.RolloutList:
        """Those that have finished, as soon as there is one."""
        ended = await while_wanted(request, store.wait(body.rollout_ids, timeout_s=body.timeout_s))
        return bodies.RolloutList(rollouts=ended)

    @router.get("/{rollout_id:path}")
    async def rollout(rollout_id: str) -> Rollout:
        """One rollout."""
        return await store.rollout(rollout_id)

    return router


def _running(store: Store, keys: Keys) -> APIRouter:
    """What runners do."""
    router = APIRouter(route_class=StrictRoute, prefix="/rollouts", tags=["running"])

    @router.post("/claim")
    async def claim(body: bodies.ClaimRequest, request: Request) -> bodies.ClaimList:
        """Take queued rollouts, with the keys that open them; waits for one."""
        claiming = store.claim(body.runner, limit=body.limit, lease_s=body.lease_s, wait_s=body.wait_s)
        taken = await while_wanted(request, claiming)
        return bodies.ClaimList(claims=[_with_key(claim.rollout, keys) for claim in taken])

    @router.post("/heartbeat")
    async def heartbeat(body: bodies.Held) -> bodies.HeldIds:
        """Renew leases."""
        if body.lease_s <= 0:
            raise BadInput(f"lease_s must be above 0, got {body.lease_s}")
        return bodies.HeldIds(held=await store.heartbeat(body.runner, body.held, lease_s=body.lease_s))

    @router.post("/release")
    async def release(body: bodies.Held) -> dict[str, str]:
        """Give rollouts back unrun."""
        await store.release(body.runner, body.held)
        return {}

    @router.post("/finish")
    async def finish(outcome: Outcome, request: Request) -> Rollout:
        """End an attempt; waits for the records of the calls that it names."""
        finishing = store.finish(outcome)
        return await (while_wanted(request, finishing) if outcome.call_ids else finishing)

    return router


def _with_key(rollout: Rollout, keys: Keys) -> Claim:
    return Claim(rollout=rollout, key=keys.rollout_key(rollout.id, rollout.attempt))


def _records(store: Store) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["records"])

    @router.post("/calls/query")
    async def calls(body: bodies.IdList) -> bodies.CallList:
        """The calls of rollouts' current attempts."""
        return bodies.CallList(calls=await store.calls(body.rollout_ids))

    @router.get("/calls/{call_id:path}")
    async def call(call_id: str) -> Call:
        """One call."""
        return await store.call(call_id)

    @router.post("/rewards/query")
    async def rewards(body: bodies.IdList) -> bodies.RewardList:
        """The rewards of rollouts' current attempts."""
        return bodies.RewardList(rewards=await store.rewards(body.rollout_ids))

    @router.get("/endpoints")
    async def endpoints(request: Request) -> bodies.EndpointList:
        """All endpoints, newest published first; their keys are shown to those alone who may publish."""
        published = await store.endpoints()
        if not access_of(request).allows("train"):
            published = [endpoint.model_copy(update={"key": None}) for endpoint in published]
        return bodies.EndpointList(endpoints=published)

    @router.post("/credits/query")
    async def credits(body: bodies.IdList) -> bodies.CreditList:
        """The credits of rollouts' calls."""
        return bodies.CreditList(credits=await store.credits(body.rollout_ids))

    return router


def _runs(store: Store) -> APIRouter:
    router = APIRouter(tags=["runs"])

    @router.get("/runs")
    async def runs() -> bodies.RunList:
        """All runs, the newest first."""
        return bodies.RunList(runs=await store.runs())

    @router.get("/steps")
    async def steps(run: str) -> bodies.StepList:
        """The steps of a run, in order."""
        return bodies.StepList(steps=await store.steps(run))

    return router


def _noting(store: Store) -> APIRouter:
    router = APIRouter(route_class=StrictRoute, tags=["runs"])

    @router.post("/runs")
    async def begin(body: bodies.RunBegin) -> dict[str, str]:
        """Add a run, or resume it after a step."""
        await store.begin(body.run, after_step=body.after_step)
        return {}

    @router.post("/steps")
    async def note(body: bodies.StepList) -> dict[str, str]:
        """Keep what runs measured."""
        await store.note(body.steps)
        return {}

    return router


def _training(store: Store) -> APIRouter:
    """What trainers do: ask for rollouts, say where the model is, keep what was learnt."""
    router = APIRouter(route_class=StrictRoute, tags=["training"])

    @router.post("/rollouts")
    async def queue(body: bodies.RolloutList) -> dict[str, str]:
        """Queue rollouts, all or none."""
        await store.queue(body.rollouts)
        return {}

    @router.put("/endpoints/{endpoint_id}")
    async def publish(endpoint_id: str, endpoint: Endpoint) -> dict[str, str]:
        """Publish an endpoint, or a new version of it."""
        if endpoint.id != endpoint_id:
            raise BadInput(f"the path names endpoint {endpoint_id!r}, the body {endpoint.id!r}")
        _check_url(endpoint)
        await store.publish(endpoint)
        return {}

    @router.post("/credits")
    async def credit(body: bodies.CreditList) -> dict[str, str]:
        """Keep advantages."""
        await store.credit(body.credits)
        return {}

    return router


def _check_url(endpoint: Endpoint) -> None:
    """The URL is on every record, so it must hold no secret; and the gateway speaks HTTP only."""
    try:
        parts = urlsplit(endpoint.url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        right = False
    if not right:
        raise BadInput(
            f"endpoint {endpoint.id}: its url must be http://HOST:PORT/v1, or https, with no user or password in it "
            "(give those as `key`)"
        )


def _writing(store: Store, measures: Measures, reward_from: RewardFrom) -> APIRouter:
    """The doors that a rollout's own key opens too."""
    router = APIRouter(route_class=StrictRoute, tags=["capture"])

    @router.post("/calls")
    async def record(body: bodies.CallList, request: Request) -> dict[str, str]:
        """Merge partial records of calls; a rollout's key records its own."""
        access = access_of(request)
        own_calls(access, body.calls)
        await still_open(store, access)
        with measures.api_record.time():
            await store.record(body.calls)
        return {}

    @router.post("/rewards")
    async def reward(body: bodies.RewardList, request: Request) -> dict[str, str]:
        """Give rewards; a rollout's key rewards its own."""
        access = access_of(request)
        rewards = own_rewards(access, body.rewards)
        await rewarding_allowed(store, access, reward_from)
        await store.reward(rewards)
        return {}

    return router
