"""What each kind of key opens, over every route that there is; a route that is not declared here fails the test."""

import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from starlette.routing import Mount

from leyden.client import HttpStore
from leyden.errors import Conflict
from leyden.gateway.doors import DOORS
from leyden.key_file import KeyFile
from leyden.keys import ROLLOUT_KEY_S, Keys
from leyden.server.app import create_app
from leyden.server.options import ServerOptions
from leyden.server.serve import BackgroundServer
from leyden.store import SqlStore
from leyden.types import Call, Credit, Endpoint, Outcome, Reward, Rollout, Structure

OPENED_BY = {
    "GET /health": "all",
    "GET /ready": "all",
    "GET /metrics": "read",
    "GET /openapi.json": "all",
    "GET /docs": "all",
    "GET /docs/oauth2-redirect": "all",
    "GET /redoc": "all",
    "GET /v1/{path}": "all",  # says which paths are served
    "POST /v1/{path}": "all",
    "GET /v1/models": "any key",
    "GET /v1/held": "rollout",
    "POST /v1/chat/completions": "rollout",
    "POST /v1/completions": "rollout",
    "POST /v1/responses": "rollout",
    "POST /v1/messages": "rollout",
    "POST /api/calls": "rollout or run",
    "POST /api/rewards": "rollout or run",
    "GET /api/rollouts": "read",
    "GET /api/rollouts/{rollout_id}": "read",
    "POST /api/rollouts/wait": "read",
    "POST /api/calls/query": "read",
    "GET /api/calls/{call_id}": "read",
    "POST /api/rewards/query": "read",
    "POST /api/credits/query": "read",
    "GET /api/endpoints": "read",
    "GET /api/runs": "read",
    "GET /api/steps": "read",
    "POST /api/rollouts/claim": "run",
    "POST /api/rollouts/heartbeat": "run",
    "POST /api/rollouts/release": "run",
    "POST /api/rollouts/finish": "run",
    "POST /api/rollouts": "train",
    "PUT /api/endpoints/{endpoint_id}": "train",
    "POST /api/credits": "train",
    "POST /api/runs": "train",
    "POST /api/steps": "train",
}
OPENS: dict[str, set[str]] = {
    "all": {"none", "wrong", "rollout", "read", "run", "train"},
    "any key": {"rollout", "read", "run", "train"},
    "rollout": {"rollout"},
    "rollout or run": {"rollout", "run", "train"},
    "read": {"read", "run", "train"},
    "run": {"run", "train"},
    "train": {"train"},
}


def routes(routes_: list[Any], prefix: str = "") -> Iterator[str]:
    """METHOD PATH of every route of the app, those that its document leaves out too; the dashboard's are an app's of
    their own, which asks at one place for all of them (tests/dashboard/test_access.py)."""
    for route in routes_:
        if isinstance(route, Mount):
            assert route.path == "/dashboard"
        elif included := getattr(route, "original_router", None):
            yield from routes(included.routes, prefix + route.include_context.prefix)
        else:
            yield from (f"{method} {prefix}{route.path}".replace(":path", "") for method in route.methods - {"HEAD"})


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    """A key of each kind, in the file of the server below; that of rollout "a" is made by it."""
    file = KeyFile(tmp_path / "leyden.keys")
    made = {role: file.add(role, role) for role in ("read", "run", "train")}
    return {"none": "", "wrong": "wrong", **made, "rollout": Keys(file=file).rollout_key("a", 1)}


@pytest.fixture
async def client(tmp_path: Path, keys: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """The app on a store in which rollout "a" runs in attempt 1."""
    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="a")])
    await store.claim("me", limit=1, lease_s=600)
    app = create_app(store, Keys(file=KeyFile(tmp_path / "leyden.keys")))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leyden") as client:
        client.routes = set(routes(app.routes)) | {f"POST {path}" for path in DOORS}  # type: ignore[attr-defined]
        yield client
    await store.close()


async def ask(client: httpx.AsyncClient, method: str, path: str, key: str, body: Any = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return await client.request(method, path, json=body, headers=headers)


async def test_every_route_is_declared_and_the_document_has_those_of_the_api(client: httpx.AsyncClient) -> None:
    assert client.routes == set(OPENED_BY)  # type: ignore[attr-defined]
    document = (await client.get("/openapi.json")).json()["paths"]
    told = {f"{method.upper()} {path}" for path, methods in document.items() for method in methods}
    assert {route for route in OPENED_BY if " /api/" in route} <= told <= set(OPENED_BY)


async def test_a_route_opens_for_the_keys_declared_and_for_no_other(
    client: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    wrong: list[tuple[str, str, int]] = []
    for route, opened_by in OPENED_BY.items():
        method, path = route.split(" ")
        where = re.sub(r"[{}]", "", path)
        for kind, key in keys.items():
            status = (await ask(client, method, where, key, None if method == "GET" else {})).status_code
            nameless = where == "/v1/held" and kind in ("read", "run", "train")  # it is told that it names no rollout
            refused = status == 400 if nameless else status in (401, 403)
            if refused == (kind in OPENS[opened_by]):
                wrong.append((route, kind, status))
    assert wrong == []


async def test_a_rollouts_key_writes_for_its_own_attempt_only(client: httpx.AsyncClient, keys: dict[str, str]) -> None:
    for rollout_id, attempt in (("b", 1), ("a", 2)):
        reward = Reward(rollout_id=rollout_id, attempt=attempt, value=1).model_dump(mode="json")
        answer = await ask(client, "POST", "/api/rewards", keys["rollout"], {"rewards": [reward]})
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "Forbidden")
        call = Call(rollout_id=rollout_id, attempt=attempt).model_dump(mode="json")
        assert (await ask(client, "POST", "/api/calls", keys["rollout"], {"calls": [call]})).status_code == 403


@pytest.mark.parametrize("forged", ["captured_by", "token_ids", "logprobs", "prompt_token_ids", "version"])
async def test_an_agent_cannot_pose_as_the_gateway_and_invent_what_was_sampled(
    client: httpx.AsyncClient, keys: dict[str, str], forged: str
) -> None:
    choice: dict[str, Any] = {"message": {"content": "hi"}}
    attempt = {"number": 0, "status": "ok", "started_at": 1, "latency_ms": 1, "choices": [choice]}
    call: dict[str, Any] = {"rollout_id": "a", "attempts": [attempt]}
    assert (await ask(client, "POST", "/api/calls", keys["rollout"], {"calls": [call]})).status_code == 200
    owner = {"captured_by": call, "token_ids": choice, "logprobs": choice}.get(forged, attempt)
    owner[forged] = {"captured_by": ["gateway"], "logprobs": [-0.5], "version": 3}.get(forged, [1])
    answer = await ask(client, "POST", "/api/calls", keys["rollout"], {"calls": [call]})
    assert (answer.status_code, "only the gateway" in answer.text) == (403, True)


async def test_only_who_may_publish_sees_the_keys_of_policy_servers(
    client: httpx.AsyncClient, keys: dict[str, str]
) -> None:
    endpoint = Endpoint(url="http://policy/v1", model="m", key="the policy's own").model_dump(mode="json")
    assert (await ask(client, "PUT", "/api/endpoints/policy", keys["train"], endpoint)).status_code == 200
    shown = {
        role: (await ask(client, "GET", "/api/endpoints", keys[role])).json()["endpoints"][0]["key"]
        for role in ("read", "run", "train")
    }
    assert shown == {"read": None, "run": None, "train": "the policy's own"}


def written(rollout_id: str = "a", attempt: int = 1) -> list[tuple[str, dict[str, Any]]]:
    """All that a rollout's key could write: a call, an adapter's word on one that is there, and a reward."""
    call = Call(id="new", rollout_id=rollout_id, attempt=attempt)
    word = Call(id="old", rollout_id=rollout_id, attempt=attempt, structure=Structure(agent=("late",)))
    reward = Reward(rollout_id=rollout_id, attempt=attempt, value=1)
    return [
        ("/api/calls", {"calls": [call.model_dump(mode="json")]}),
        ("/api/calls", {"calls": [word.model_dump(mode="json")]}),
        ("/api/rewards", {"rewards": [reward.model_dump(mode="json")]}),
    ]


@pytest.mark.parametrize("ended", ["finished", "given back", "lost", "claimed again"])
async def test_the_key_of_an_attempt_that_ended_writes_nothing_more(tmp_path: Path, ended: str) -> None:
    with BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.queue([Rollout(id="a")])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        await store.record([Call(id="old", rollout_id="a")])
        if ended == "given back":
            await store.release("me", [("a", 1)])
        else:
            status = "succeeded" if ended == "finished" else "lost"
            await store.finish(Outcome(rollout_id="a", attempt=1, runner="me", status=status))
        if ended == "claimed again":
            await store.claim("you", limit=1, lease_s=600)
        async with httpx.AsyncClient(base_url=server.url) as client:
            for path, body in written():
                answer = await ask(client, "POST", path, claim.key or "", body)
                assert (answer.status_code, answer.json()["error"]["type"]) == (410, "LeaseLost")
            chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            assert (await ask(client, "POST", "/v1/chat/completions", claim.key or "", chat)).status_code == 410
        assert (await store.call("old")).structure is None
        assert await store.rewards(["a"]) == []
        await store.close()


async def test_a_rollouts_key_expires_whatever_becomes_of_the_rollout(
    client: httpx.AsyncClient, keys: dict[str, str], tmp_path: Path
) -> None:
    claims = jwt.decode(keys["rollout"], options={"verify_signature": False})
    assert 0 < claims["exp"] - time.time() <= ROLLOUT_KEY_S
    (secret,) = Keys(file=KeyFile(tmp_path / "leyden.keys"))._secrets()  # pyright: ignore[reportPrivateUsage]
    old = jwt.encode({**claims, "exp": time.time() - 1}, secret, algorithm="HS256")
    answer = await ask(client, "GET", "/v1/held", old)
    assert (answer.status_code, "expired" in answer.text) == (403, True)
    assert (await ask(client, "GET", "/v1/held", keys["rollout"])).status_code == 200
    endless = jwt.encode({name: claims[name] for name in ("rollout", "attempt")}, secret, algorithm="HS256")
    assert (await ask(client, "GET", "/v1/held", endless)).status_code == 403


async def test_a_grader_rewards_a_finished_rollout_until_it_was_learnt_from(tmp_path: Path) -> None:
    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="a")])
    await store.claim("me", limit=1, lease_s=600)
    await store.record([Call(id="x", rollout_id="a")])
    await store.finish(Outcome(rollout_id="a", attempt=1, runner="me", status="succeeded"))
    await store.reward([Reward(id="in time", rollout_id="a", value=1)])
    await store.credit([Credit(call_id="x", rollout_id="a", run="r", step=3, method="grpo", advantage=0.5)])
    with pytest.raises(Conflict, match="consumed by step 3 of run 'r'"):
        await store.reward([Reward(id="late", rollout_id="a", value=2)])
    await store.reward([Reward(id="in time", rollout_id="a", value=1)])
    assert [reward.id for reward in await store.rewards(["a"])] == ["in time"]
    await store.close()


@pytest.mark.parametrize("by", ["rollout", "server"])
async def test_where_graders_alone_may_reward_an_agent_cannot_score_itself(tmp_path: Path, by: str) -> None:
    options = ServerOptions(reward_from="grader") if by == "server" else ServerOptions()
    with BackgroundServer(tmp_path / "store.sqlite", options) as server:
        store = HttpStore(server.url, server.key)
        await store.queue([Rollout(id="a", reward_from="grader" if by == "rollout" else "any")])
        (claim,) = await store.claim("me", limit=1, lease_s=60)
        async with httpx.AsyncClient(base_url=server.url) as client:
            answer = await ask(client, "POST", *written()[2][:1], claim.key or "", written()[2][1])
        assert (answer.status_code, "takes rewards of graders only" in answer.text) == (403, True)
        await store.reward([Reward(rollout_id="a", value=0.5)])
        assert [reward.value for reward in await store.rewards(["a"])] == [0.5]
        await store.close()


async def test_a_reward_by_a_rollouts_key_cannot_pose_as_the_graders(tmp_path: Path) -> None:
    with BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.queue([Rollout(id="a")])
        (claim,) = await store.claim("me", limit=1, lease_s=60)
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert (await ask(client, "POST", "/api/rewards", claim.key or "", written()[2][1])).status_code == 200
        assert [given.source for given in await store.rewards(["a"])] == ["agent"]
        await store.close()
