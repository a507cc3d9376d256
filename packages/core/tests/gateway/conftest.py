"""A server with one running rollout and a scripted policy, for the tests of the doors."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Call, Endpoint, Outcome, Reward, Rollout


@dataclass
class Doorstep:
    """Where an agent stands: the server's address, the keys of rollouts "a" and "b", and the policy behind it."""

    store: HttpStore
    policy: FakeServer
    url: str
    keys: dict[str, str]

    async def call(self) -> Call:
        """The only call of rollout "a"."""
        (call,) = await self.store.calls(["a"])
        return call

    async def gaps(self, *call_ids: str) -> Sequence[str]:
        """What rollout "a" lacks for training, when it is ended now; waits for the records of these calls."""
        rewards = (Reward(rollout_id="a", value=1),)
        outcome = Outcome(rollout_id="a", attempt=1, runner="me", status="succeeded", rewards=rewards)
        ended = await self.store.finish(outcome.model_copy(update={"call_ids": call_ids or None}))
        return ended.incomplete


@pytest.fixture
def replies() -> list[Reply]:
    return [Reply("good morning"), Reply("good night")]


@pytest.fixture
async def doorstep(tmp_path: Path, replies: list[Reply]) -> AsyncIterator[Doorstep]:
    with FakeServer(replies) as policy, BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="fake", version=5))
        await store.queue([Rollout(id=name, mode="train") for name in ("a", "b")])
        claims = await store.claim("me", limit=2, lease_s=600)
        yield Doorstep(store, policy, server.url, {claim.rollout.id: claim.key or "" for claim in claims})
        await store.close()
