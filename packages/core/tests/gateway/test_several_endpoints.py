"""Several servers of one policy: a rollout stays on one, all are used, and each tells its own version."""

from pathlib import Path

from openai import AsyncOpenAI

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Endpoint, Rollout

NUM_ROLLOUTS, NUM_CALLS = 16, 3


async def test_a_rollout_stays_on_one_of_several_servers_and_all_are_used(tmp_path: Path) -> None:
    """Its prefix cache is there. The version of a call is that of the server that answered it."""
    replies = [Reply("good morning")] * (NUM_ROLLOUTS * NUM_CALLS)
    with FakeServer(replies) as one, FakeServer(replies) as two, BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        versions = {one.url: 4, two.url: 5}
        for number, (url, version) in enumerate(versions.items()):
            await store.publish(Endpoint(id=f"policy-{number}", url=url, model="fake", version=version))
        names = [f"rollout-{number}" for number in range(NUM_ROLLOUTS)]
        await store.queue([Rollout(id=name, mode="train") for name in names])
        for claim in await store.claim("me", limit=NUM_ROLLOUTS, lease_s=600):
            async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=claim.key) as client:
                for turn in range(NUM_CALLS):
                    asked = [{"role": "user", "content": f"turn {turn}"}]
                    await client.chat.completions.create(model="any", messages=asked)  # pyright: ignore[reportArgumentType]
        calls = await store.calls(names)
        await store.close()
    assert len(calls) == NUM_ROLLOUTS * NUM_CALLS
    places = {(call.rollout_id, call.answer.endpoint) for call in calls if call.answer}
    assert len(places) == NUM_ROLLOUTS
    assert {endpoint for _, endpoint in places} == set(versions)
    assert all(call.answer and call.answer.version == versions[call.answer.endpoint or ""] for call in calls)
