from collections.abc import AsyncIterator

import httpx
import pytest

from leyden.client import HttpStore
from leyden.errors import Forbidden, Unreachable
from leyden.keys import Keys
from leyden.server.serve import BackgroundServer
from leyden.testing.store_contract import StoreContract
from leyden.types import Call, Reward, Rollout


class TestHttpStore(StoreContract):
    @pytest.fixture
    async def store(self, server: BackgroundServer) -> AsyncIterator[HttpStore]:
        store = HttpStore(server.url, server.key)
        yield store
        await store.close()


OWN_DOORS = {("post", "/api/calls"), ("post", "/api/rewards")}


def test_a_rollouts_key_opens_its_own_doors_and_no_others(server: BackgroundServer) -> None:
    key = Keys(server.key).rollout_key("a", 1)
    with httpx.Client(base_url=server.url) as client:
        document = client.get("/openapi.json").json()
        routes = [(method, path) for path, methods in document["paths"].items() for method in methods]
        assert len(routes) > 15
        for method, path in routes:
            if path == "/health" or path.startswith("/v1/"):
                continue  # those under /v1: tests/gateway/test_gateway_doors.py
            where = path.replace("{", "").replace("}", "")
            assert client.request(method, where, json={}).status_code == 401 or (method, path) in OWN_DOORS
            wrong = client.request(method, where, json={}, headers={"Authorization": "Bearer wrong"})
            assert wrong.status_code == 403 or (method, path) in OWN_DOORS
            own = client.request(method, where, json={}, headers={"Authorization": f"Bearer {key}"})
            assert own.status_code == (400 if (method, path) in OWN_DOORS else 403)


def test_a_rollouts_key_writes_for_its_own_attempt_only(server: BackgroundServer) -> None:
    headers = {"Authorization": f"Bearer {Keys(server.key).rollout_key('a', 1)}"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        for rollout_id, attempt in (("b", 1), ("a", 2)):
            reward = Reward(rollout_id=rollout_id, attempt=attempt, value=1).model_dump(mode="json")
            answer = client.post("/api/rewards", json={"rewards": [reward]})
            assert (answer.status_code, answer.json()["error"]["type"]) == (403, "Forbidden")
            call = Call(rollout_id=rollout_id, attempt=attempt).model_dump(mode="json")
            assert client.post("/api/calls", json={"calls": [call]}).status_code == 403


async def test_a_reward_by_a_rollouts_key_cannot_pose_as_the_graders(server: BackgroundServer) -> None:
    store = HttpStore(server.url, server.key)
    await store.queue([Rollout(id="a")])
    (claim,) = await store.claim("me", limit=1, lease_s=60)
    reward = Reward(rollout_id="a", value=1, source="grader").model_dump(mode="json")
    async with httpx.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {claim.key}"}) as client:
        assert (await client.post("/api/rewards", json={"rewards": [reward]})).status_code == 200
    assert [given.source for given in await store.rewards(["a"])] == ["agent"]
    await store.close()


async def test_a_wrong_key_and_a_server_that_is_away_are_told_apart(server: BackgroundServer) -> None:
    stranger = HttpStore(server.url, "wrong")
    with pytest.raises(Forbidden, match="set LEYDEN_KEY"):
        await stranger.endpoints()
    await stranger.close()
    nobody = HttpStore("http://127.0.0.1:9", "key")
    with pytest.raises(Unreachable, match="start it with `leyden serve`"):
        await nobody.health()
    await nobody.close()
