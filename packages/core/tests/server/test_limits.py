"""What a server takes from one client: bytes, nesting, seconds, requests per second."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from leyden.gateway.doors import DOORS
from leyden.keys import Keys
from leyden.server.app import create_app
from leyden.server.limits import Limits
from leyden.server.options import ServerOptions
from leyden.store import SqlStore
from leyden.types import Rollout

LIMITS = Limits(body_bytes=1000, body_s=0.05, requests_per_s=5, call_s=0.05)


@pytest.fixture
async def app(tmp_path: Any) -> AsyncIterator[Any]:
    """The app on a store in which rollouts "a" and "b" run."""
    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="a"), Rollout(id="b")])
    await store.claim("me", limit=2, lease_s=600)
    yield create_app(store, Keys("the operator's"), ServerOptions(limits=LIMITS))
    await store.close()


def client(app: Any, key: str = "the operator's") -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://leyden", headers=headers)


def rollout_key(rollout_id: str) -> str:
    return Keys("the operator's").rollout_key(rollout_id, 1)


@pytest.mark.parametrize("path", ["/api/rollouts", *DOORS])
@pytest.mark.parametrize("told", [True, False])
async def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(app: Any, path: str, told: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 100

    async with client(app, rollout_key("a") if path in DOORS else "the operator's") as door:
        headers = {"Content-Type": "application/json"}
        answer = await door.post(path, content=b" " * 1001 if told else pieces(), headers=headers)
    assert (answer.status_code, "longer than 1000 bytes" in answer.text) == (413, True)


async def test_a_body_that_does_not_come_is_not_waited_for(app: Any) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with client(app) as door:
        answer = await door.post("/api/rollouts", content=never(), headers={"Content-Type": "application/json"})
    assert (answer.status_code, "did not come within 0.05 s" in answer.text) == (408, True)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("path", DOORS)
async def test_what_is_nested_too_deeply_is_refused_by_every_door(app: Any, path: str) -> None:
    async with client(app, rollout_key("a")) as door:
        answer = await door.post(path, json={"model": "m", "metadata": nested(100)})
        assert (answer.status_code, "more than 100 levels" in answer.text) == (400, True)


async def test_the_deepest_task_that_is_taken_can_be_read_and_claimed(app: Any) -> None:
    async with client(app) as door:
        deep = {"rollouts": [{"id": "deep", "task": nested(97)}]}
        assert (
            await door.post("/api/rollouts", json={"rollouts": [{"id": "x", "task": nested(98)}]})
        ).status_code == 400
        assert (await door.post("/api/rollouts", json=deep)).status_code == 200
        claim = {"runner": "me", "limit": 5, "lease_s": 60}
        (claimed,) = (await door.post("/api/rollouts/claim", json=claim)).json()["claims"]
        assert Rollout.model_validate(claimed["rollout"]).task == nested(97)


async def test_numbers_that_are_no_json_are_refused(app: Any) -> None:
    async with client(app) as door:
        headers = {"Content-Type": "application/json"}
        answer = await door.post("/api/rollouts", content=b'{"rollouts": [{"task": NaN}]}', headers=headers)
        assert (answer.status_code, "is no JSON" in answer.text) == (400, True)


async def test_a_rollout_that_asks_too_often_is_slowed_and_no_other_is(app: Any) -> None:
    async with client(app, rollout_key("a")) as busy, client(app, rollout_key("b")) as calm, client(app) as operator:
        statuses = [(await busy.get("/v1/models")).status_code for _ in range(30)]
        assert statuses[:10] == [200] * 10  # two seconds' worth at once
        assert 429 in statuses
        assert (await calm.get("/v1/models")).status_code == 200
        assert {(await operator.get("/v1/models")).status_code for _ in range(30)} == {200}


async def test_a_call_that_takes_too_long_is_ended_and_on_record(app: Any) -> None:
    async with client(app, rollout_key("a")) as door, client(app) as operator:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        answer = await door.post("/v1/chat/completions", json=body)  # no endpoint is published, so it waits
        assert (answer.status_code, "longer than the server's limit of 0.05 s" in answer.text) == (504, True)
        (call,) = (await operator.post("/api/calls/query", json={"rollout_ids": ["a"]})).json()["calls"]
        assert [(attempt["status"], attempt["http_status"]) for attempt in call["attempts"]] == [("error", 504)]
