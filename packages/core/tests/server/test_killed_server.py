"""A real server process is killed while clients write; what it acknowledged is there afterwards, once."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from leyden.client import HttpStore
from leyden.errors import LeydenError
from leyden.types import Call, Reward, Rollout

KEY = "a key of this test"
ROUNDS = 3


def start(path: Path) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "leyden", "serve", "--store", str(path), "--port", "0"]
    environment = {**os.environ, "LEYDEN_KEY": KEY}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("leyden: serving on http://127.0.0.1:")
    return process, line.split()[-1]


async def write(
    store: HttpStore, prefix: str, calls: list[str], rewards: list[str], *, wanted: int, enough: asyncio.Event
) -> None:
    """Write until the server is gone, noting what it acknowledged."""
    for number in range(10_000):
        name = f"{prefix}-{number}"
        try:
            await store.record([Call(id=name, rollout_id="a")])
            calls.append(name)
            await store.reward([Reward(id=name, rollout_id="a", value=number)])
            rewards.append(name)
        except LeydenError:
            break
        if len(rewards) >= wanted:
            enough.set()
    enough.set()


@pytest.mark.slow
async def test_what_was_acknowledged_survives_kill_nine(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    calls: list[str] = []
    rewards: list[str] = []
    rng = random.Random(0)
    for turn in range(ROUNDS):
        process, url = start(path)
        store = HttpStore(url, KEY, timeout_s=5)
        if turn == 0:
            await store.queue([Rollout(id="a")])
            await store.claim("me", limit=1, lease_s=3600)
        wanted, enough = len(rewards) + rng.randrange(20, 120), asyncio.Event()
        writers = [
            asyncio.create_task(write(store, f"{turn}-{n}", calls, rewards, wanted=wanted, enough=enough))
            for n in range(8)
        ]
        await enough.wait()
        process.send_signal(signal.SIGKILL)
        await asyncio.gather(*writers)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        await store.close()
    process, url = start(path)
    store = HttpStore(url, KEY)
    stored_calls = [call.id for call in await store.calls(["a"])]
    stored_rewards = [reward.id for reward in await store.rewards(["a"])]
    await store.close()
    process.terminate()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    assert len(calls) >= ROUNDS * 20
    assert set(calls) <= set(stored_calls)
    assert set(rewards) <= set(stored_rewards)
    assert len(stored_calls) == len(set(stored_calls))
    assert len(stored_rewards) == len(set(stored_rewards))
