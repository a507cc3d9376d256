"""Real worker processes: what they do with agents that hang, and with time in which the gateway holds them."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from leyden.client import HttpStore
from leyden.runner.messages import Job, Setup
from leyden.runner.workers import MOST_ABANDONED, Workers
from leyden.server.limits import Limits
from leyden.server.options import ServerOptions
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Endpoint, Rollout

AGENT = """
import asyncio, os, sys, threading
import openai

client = openai.OpenAI(max_retries=0)
never, go = threading.Event(), asyncio.Event()

def solve(task):
    if task == "hang":
        never.wait()
    if task == "exit":
        sys.exit(3)
    if task == "wait":
        open("gate").read()
    if task in ("whole", "stream"):
        messages = [{"role": "user", "content": "hello"}]
        answer = client.chat.completions.create(model="m", messages=messages, stream=task == "stream")
        if task == "whole":
            return answer.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    return os.getpid()

async def stubborn(task):
    if task == "block":
        never.wait()
    if task == "exit":
        sys.exit(3)
    if task == "cancel":
        raise asyncio.CancelledError
    while task == "hang":
        try:
            await go.wait()
        except asyncio.CancelledError:
            pass
    return os.getpid()
"""


@pytest.fixture
async def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "agent.py").write_text(AGENT)
    os.mkfifo(tmp_path / "gate")  # the reader waits for its writer
    monkeypatch.chdir(tmp_path)
    return tmp_path


def setup(url: str = "", agent: str = "agent.py:solve") -> Setup:
    return Setup(agent=agent, server_url=url, models=(), passthrough=(), shared=True, concurrency=4)


@pytest.fixture
async def workers(folder: Path) -> AsyncIterator[Workers]:
    workers = Workers(setup())
    await workers.start()
    yield workers
    await workers.stop()


def job(name: str, task: str = "pid", timeout_s: float = 60.0) -> Job:
    return Job(rollout_id=name, attempt=1, task=task, gateway=False, timeout_s=timeout_s)


def is_there(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists()


async def test_a_worker_that_agents_hang_in_is_replaced_and_its_other_runs_go_on(workers: Workers) -> None:
    first = (await workers.run(job("before"))).result
    waiting = asyncio.create_task(workers.run(job("long", "wait")))
    for number in range(MOST_ABANDONED):
        assert (await workers.run(job(f"hang {number}", "hang", 0.01))).failure
        assert (await workers.run(job(f"between {number}"))).result == first
    last = await workers.run(job("one too many", "hang", 0.01))
    assert (last.failure and last.failure.kind, last.abandoned) == ("timeout", MOST_ABANDONED + 1)
    second = (await workers.run(job("after"))).result
    assert isinstance(first, int)
    assert isinstance(second, int)
    assert second != first
    assert is_there(first)
    await asyncio.to_thread(Path("gate").write_text, "open")
    assert (await waiting).result == first
    assert not is_there(first)
    assert (await workers.run(job("later"))).result == second


async def test_an_async_agent_that_ignores_its_end_is_abandoned_too(folder: Path) -> None:
    workers = Workers(setup(agent="agent.py:stubborn"))
    await workers.start()
    done = await workers.run(job("hang", "hang", 0.01))
    assert (done.failure and done.failure.kind, done.abandoned) == ("timeout", 1)
    assert (await workers.run(job("next"))).status == "returned"
    await workers.stop()


async def test_an_async_agent_that_blocks_the_loop_ends_its_worker_and_is_named(folder: Path) -> None:
    workers = Workers(setup(agent="agent.py:stubborn"))
    await workers.start()
    done = await workers.run(job("blocks", "block", 0.5))
    assert done.status == "lost"
    assert "an async agent blocked the event loop for longer than its time limit" in str(done.failure)
    assert (await workers.run(job("next"))).status == "returned"
    await workers.stop()


@pytest.mark.parametrize(
    ("agent", "task", "message"),
    [
        ("agent.py:solve", "exit", "sys.exit(3)"),
        ("agent.py:stubborn", "exit", "sys.exit(3)"),
        ("agent.py:stubborn", "cancel", "cancelled itself"),
    ],
)
async def test_an_agent_that_ends_itself_is_data_and_its_worker_goes_on(
    folder: Path, agent: str, task: str, message: str
) -> None:
    workers = Workers(setup(agent=agent))
    await workers.start()
    done = await workers.run(job("odd", task))
    assert (done.status, done.failure and done.failure.kind) == ("failed", "agent_error")
    assert message in (done.failure.message if done.failure else "")
    assert (await workers.run(job("next"))).status == "returned"
    await workers.stop()


async def test_time_in_which_the_gateway_holds_a_rollout_does_not_count(folder: Path) -> None:
    limit_s = 5.0
    any_rate = ServerOptions(limits=Limits(requests_per_s=0))  # the test asks how long as fast as it can
    with (
        FakeServer(lambda body, headers: Reply("good morning")) as policy,
        BackgroundServer("s.sqlite", any_rate) as server,
    ):
        store, workers = HttpStore(server.url, server.key), Workers(setup(server.url))
        endpoint = Endpoint(url=policy.url, model="fake", state="held")
        await store.publish(endpoint)
        names = ("whole", "stream")
        await store.queue([Rollout(id=name, task=name, mode="eval") for name in names])
        keys = {claim.rollout.id: claim.key for claim in await store.claim("me", limit=2, lease_s=600)}
        await workers.start()

        async def run(name: str, task: str) -> object:
            asked = Job(rollout_id=name, attempt=1, task=task, key=keys[name], timeout_s=limit_s)
            return (await workers.run(asked)).result

        running = [asyncio.create_task(run(name, name)) for name in names]
        async with httpx.AsyncClient(base_url=server.url) as client:
            for name in names:
                while await held(client, keys[name] or "") < limit_s + 0.5:
                    assert not any(task.done() for task in running)
        await store.publish(endpoint.model_copy(update={"state": "ready"}))
        assert await asyncio.gather(*running) == ["good morning"] * 2
        await workers.stop()
        await store.close()


async def held(client: httpx.AsyncClient, key: str) -> float:
    return (await client.get("/v1/held", headers={"Authorization": f"Bearer {key}"})).json()["held_s"]
