"""AutoGen agents in a rollout behind a real gateway; the model is scripted."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from autogen_ext.models.openai import OpenAIChatCompletionClient

from leyden.capture import flush, install_capture, uninstall_capture
from leyden.client import HttpStore
from leyden.scope import Scope, enter_scope
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer
from leyden.types import Call, Endpoint, Outcome, Rollout

Agent = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture(autouse=True)
def captured() -> Iterator[None]:
    install_capture(require_scope=True)
    yield
    uninstall_capture()


@pytest.fixture
def clients() -> list[OpenAIChatCompletionClient]:
    """What `model` has made, to be closed in the loop that used it."""
    return []


@pytest.fixture
def model(clients: list[OpenAIChatCompletionClient]) -> Callable[..., OpenAIChatCompletionClient]:
    """Makes model clients whose base URL is nobody's."""
    info = {"vision": False, "function_calling": True, "json_output": True, "structured_output": True, "family": "any"}

    def make(**more: Any) -> OpenAIChatCompletionClient:
        settings = {"base_url": "http://127.0.0.1:9", "api_key": "sk-x", "max_retries": 0, **more}
        clients.append(OpenAIChatCompletionClient(model="m", model_info=info, **settings))
        return clients[-1]

    return make


@pytest.fixture
def calls_of(
    tmp_path: Path, clients: list[OpenAIChatCompletionClient]
) -> Callable[..., Coroutine[Any, Any, list[Call]]]:
    """Run an agent in a rollout; its calls as the store has them, in order."""

    async def run(replies: Any, agent: Agent, *, mode: Any = "train") -> list[Call]:
        with FakeServer(replies) as policy, BackgroundServer(tmp_path / "store.sqlite") as server:
            store = HttpStore(server.url, server.key)
            await store.publish(Endpoint(url=policy.url, model="m"))
            await store.queue([Rollout(id="a", mode=mode)])
            (claim,) = await store.claim("me", limit=1, lease_s=600)
            with enter_scope(Scope("a", 1, server.url, claim.key, gateway=mode != "trace")) as scope:
                await agent()
            for client in clients:
                await client.close()
            await asyncio.to_thread(flush, scope, timeout_s=10)
            assert scope.losses == []
            ended = Outcome(
                rollout_id="a", attempt=1, runner="me", status="succeeded", call_ids=tuple(scope.call_ids), wait_s=10
            )
            await store.finish(ended)  # it waits for the gateway's side of a call that was left
            calls = await store.calls(["a"])
            assert sorted(call.id for call in calls) == sorted(scope.call_ids)
            await store.close()
            return calls

    return run
