"""Runners and the server are killed at random moments, behind a bad network, while unmodified agents call a model.

Every answer that an agent saw is on record, once; leases run out and others go on; every rollout succeeds in the end.
"""

import asyncio
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import select

from leyden.client import HttpStore
from leyden.errors import Unreachable
from leyden.store.engine import open_engine
from leyden.store.records import decode_rows
from leyden.store.schema import calls, rewards, rollouts
from leyden.testing.fake_server import FakeServer, Reply
from leyden.testing.faulty_wire import FaultyWire
from leyden.testing.server_process import ServerProcess
from leyden.types import Endpoint, Rollout

AGENT = """
import openai

client = openai.OpenAI()

def solve(task):
    for turn in range(2):
        messages = [{"role": "user", "content": f"{task} {turn}"}]
        answer = client.chat.completions.create(model="m", messages=messages).choices[0].message.content
        with open(__file__ + ".seen", "a") as seen:
            seen.write(answer + "\\n")
    return answer

def score(task, result):
    return 1.0
"""
RUNNER = """
import asyncio, os, sys
from leyden.client import HttpStore
from leyden.runner.options import RunnerOptions
from leyden.runner.runner import Runner

agent, url = sys.argv[1:]
options = RunnerOptions(
    agent=agent + ":solve", reward=agent + ":score", server_url=url, concurrency=8, lease_s=3.0, patience_s=1e6
)

async def main():
    await Runner(HttpStore(url, os.environ.pop("LEYDEN_KEY")), options).run(asyncio.Event())

if __name__ == "__main__":
    asyncio.run(main())
"""
ROLLOUTS_A_KILL, CALLS_A_KILL = (
    12,
    20,
)  # there are two calls or more in a rollout, so that work lasts until the last kill


class Model:
    """Answers each request with a text of its own, and lets others wait for the next request."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()
        self._asked = threading.Semaphore(0)

    def __call__(self, _body: dict[str, Any], _headers: Mapping[str, str]) -> Reply:
        with self._lock:
            self._count += 1
            self._asked.release()
            return Reply(f"answer {self._count}")

    def after(self, more: int) -> None:
        for _ in range(more):
            self._asked.acquire()


class RunnerProcess:
    """A runner that works until it is killed; its workers end with it."""

    def __init__(self, folder: Path, url: str) -> None:
        (folder / "run.py").write_text(RUNNER)
        self._command = [sys.executable, str(folder / "run.py"), str(folder / "agent.py"), url]
        self._environment = {**os.environ, "LEYDEN_KEY": ServerProcess.KEY, "OPENAI_API_KEY": "none"}
        self._log = folder / "runners.log"
        self.start()

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._environment)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def storm(servers: list[ServerProcess], folder: Path, kills: Any, survived: Counter[str]) -> set[str]:
    rng, model = random.Random(0), Model()
    wire = FaultyWire([server.port for server in servers], rng, silence=False)
    names = {f"r{number}" for number in range(ROLLOUTS_A_KILL * kills.most)}
    with FakeServer(model) as policy:
        store = HttpStore(servers[0].url, ServerProcess.KEY)
        await store.publish(Endpoint(url=policy.url, model="m", version=1))
        await store.queue([Rollout(id=name, task=name, mode="train", max_attempts=1000) for name in sorted(names)])
        async with wire.listening() as url:
            runners = [RunnerProcess(folder, url) for _ in range(2)]
            for number in kills:
                await asyncio.to_thread(model.after, rng.randrange(1, CALLS_A_KILL))
                falls = rng.choice(servers if number % 2 else runners)
                await asyncio.to_thread(falls.kill)
                await asyncio.to_thread(falls.start)
                survived["server kills" if falls in servers else "runner kills"] += 1
            await all_ended(store, names)
            for runner in runners:
                await asyncio.to_thread(runner.kill)
        await store.close()
    survived.update({f"requests {what}": n for what, n in wire.counts.items() if what != "passed"})
    return names


async def all_ended(store: HttpStore, names: set[str]) -> None:
    left = set(names)
    while left:
        try:
            left -= {rollout.id for rollout in await store.wait(sorted(left), timeout_s=10)}
        except Unreachable:
            continue


async def test_runners_and_servers_are_killed_under_agents_that_call_a_model(
    place: str, tmp_path: Path, kills: Any, survived: Counter[str]
) -> None:
    (tmp_path / "agent.py").write_text(AGENT)
    with ExitStack() as stack:
        servers = [stack.enter_context(ServerProcess(place)) for _ in range(2 if "://" in place else 1)]
        names = await storm(servers, tmp_path, kills, survived)
    engine = open_engine(place)
    with engine.connect() as connection:
        recorded = decode_rows(connection, connection.execute(select(calls)).all())
        states = connection.execute(select(rollouts.c.id, rollouts.c.status, rollouts.c.attempt)).all()
        given = Counter(tuple(row) for row in connection.execute(select(rewards.c.rollout_id, rewards.c.attempt)))
    engine.dispose()
    texts = Counter(choice.message["content"] for call in recorded for a in call.attempts for choice in a.choices)
    seen = (tmp_path / "agent.py.seen").read_text().splitlines()
    lost = [text for text in seen if not texts[text]]
    lost += [row.id for row in states if not given[row.id, row.attempt]]
    twice = [text for text, count in texts.items() if count > 1] + [key for key, count in given.items() if count > 1]
    stuck = [(row.id, row.status) for row in states if row.status != "succeeded"]
    survived.update(lost=len(lost), twice=len(twice), stuck=len(stuck))
    assert {row.id for row in states} == names
    assert (lost, twice, stuck) == ([], [], [])
