"""A server that stops sends away those who wait, and says nothing about it."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leyden.client import HttpStore
from leyden.errors import Unreachable
from leyden.server.serve import BackgroundServer
from leyden.types import Rollout

KEY = "a key of this test"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "leyden", "serve", "--store", str(tmp_path / "store.sqlite"), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env={**os.environ, "LEYDEN_KEY": KEY}, **pipes) as process:
        yield process
        process.kill()


async def test_stopping_with_long_polls_under_way_is_quick_and_leaves_no_traceback(
    process: subprocess.Popen[str],
) -> None:
    assert process.stdout is not None
    store = HttpStore(process.stdout.readline().split()[-1], KEY)
    await store.queue([Rollout(id="a")])
    await store.claim("ann", limit=1, lease_s=600)
    polls = [
        asyncio.create_task(store.claim("bob", limit=1, lease_s=600, wait_s=60)),
        asyncio.create_task(store.wait(["a"], timeout_s=60)),
    ]
    assert await store.claim("eve", limit=1, lease_s=600, wait_s=0.05) == []
    process.terminate()
    ends = await asyncio.gather(*polls, return_exceptions=True)
    _, told = await asyncio.to_thread(process.communicate)
    await store.close()
    assert [type(end) for end in ends] == [Unreachable, Unreachable]
    assert "the server is stopping" in str(ends[0])
    assert (told, process.returncode) == ("", 0)


async def test_a_claim_is_not_made_for_a_runner_that_is_gone(server: BackgroundServer) -> None:
    gone, store = HttpStore(server.url, server.key), HttpStore(server.url, server.key)
    waiting = asyncio.create_task(gone.claim("gone", limit=1, lease_s=600, wait_s=60))
    assert await store.claim("bob", limit=1, lease_s=600, wait_s=0.05) == []
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await gone.close()
    await store.queue([Rollout(id="a", max_attempts=1)])
    (claim,) = await store.claim("bob", limit=1, lease_s=600, wait_s=60)
    assert claim.rollout.runner == "bob"
    await store.close()


def test_a_port_in_use_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "leyden", "serve", "--store", str(tmp_path / "s.sqlite"), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "choose another with --port" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "s.sqlite").exists()
