"""`leyden doctor`: each thing that can be wrong is found, with what to do about it."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from leyden.cli.doctor import python_finding
from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Endpoint


def doctor(*arguments: str, key: str | None = None, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LEYDEN_KEY"}
    environment |= {"LEYDEN_KEY": key} if key else {}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    command = [sys.executable, "-m", "leyden", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BackgroundServer]:
    with BackgroundServer(tmp_path / "store.sqlite") as server:
        yield server


def publish(server: BackgroundServer, *endpoints: Endpoint) -> None:
    async def put() -> None:
        store = HttpStore(server.url, server.key)
        for endpoint in endpoints:
            await store.publish(endpoint)
        await store.close()

    asyncio.run(put())


def test_nothing_wrong_is_exit_status_0_and_a_line_for_each_part() -> None:
    port = free_port()
    told = doctor("--port", port)
    assert told.returncode == 0, told.stdout
    for part in ("Python 3.", "openai ", f"port {port} is free"):
        assert f"ok       {part}" in told.stdout


@pytest.mark.parametrize(("minor", "ok"), [(10, False), (11, True), (12, True), (13, True), (14, False)])
def test_a_python_that_leyden_is_not_for_is_a_problem(minor: int, ok: bool) -> None:
    assert python_finding(3, minor, 1).ok == ok


def test_wrong_versions_a_broken_adapter_and_a_port_in_use_are_all_named(tmp_path: Path) -> None:
    install(tmp_path, "openai", "0.28.1")
    install(tmp_path, "langchain-core", "1.0.0")
    install(tmp_path, "langgraph", "0.2.0")
    install(tmp_path, "broken-adapter", "1.0", "[leyden.adapters]\nbroken = no_such_module:Adapter\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told = doctor("--port", str(listener.getsockname()[1]), path=tmp_path)
    assert told.returncode == 1
    assert advice(told.stdout, "openai 0.28.1") == 'tested is <4,>=1.109: pip install "openai<4,>=1.109"'
    assert advice(told.stdout, "langchain-core 1.0.0") == 'tested is <2,>=1.4.9: pip install "langchain-core<2,>=1.4.9"'
    assert advice(told.stdout, "langgraph 0.2.0").startswith("tested is <2,>=1.2.22: ")
    assert advice(told.stdout, "adapter broken: No module named") == "install its package and framework again"
    assert advice(told.stdout, "port ") == "end what uses it, or `leyden serve --port 0`"


@pytest.mark.parametrize(
    ("framework", "adapter"),
    [
        ("langchain-core", "leyden-langchain"),
        ("openai-agents", "leyden-openai-agents"),
        ("autogen-agentchat", "leyden-autogen"),
    ],
)
def test_a_framework_without_its_adapter_is_told_which_to_install(tmp_path: Path, framework: str, adapter: str) -> None:
    install(tmp_path, adapter, "0.1.0")  # without an entry point, so that the adapter is not there
    told = doctor("--port", free_port(), path=tmp_path)
    assert told.returncode == 1
    expected = f"pip install {adapter}, or calls have no agent's name"
    assert advice(told.stdout, f"{framework} without its adapter") == expected


def test_a_trainer_without_torch_is_told_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "leyden_trainer").mkdir()
    (tmp_path / "leyden_trainer" / "__init__.py").touch()
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None  # as if it were not there\n")
    told = doctor("--port", free_port(), path=tmp_path)
    assert advice(told.stdout, "the trainer is installed") == "it needs torch: pip install torch==2.13.0"


def install(folder: Path, name: str, version: str, entry_points: str = "") -> None:
    """As pip leaves it: metadata that is found before that of the real package."""
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (place / "entry_points.txt").write_text(entry_points)


def advice(out: str, problem: str) -> str:
    lines = out.splitlines()
    (number,) = [number for number, line in enumerate(lines) if line.startswith(f"problem  {problem}")]
    return lines[number + 1].strip()


def test_a_server_that_is_away_one_without_a_key_and_one_with_a_wrong_key(server: BackgroundServer) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    assert "start it with `leyden serve`" in advice(doctor("--server", away, key="k").stdout, f"server {away}")
    assert advice(doctor("--server", server.url).stdout, "no key for").startswith("set LEYDEN_KEY")
    told = doctor("--server", server.url, key="wrong")
    assert "set LEYDEN_KEY to the key" in advice(told.stdout, "the key in LEYDEN_KEY")
    assert told.returncode == 1


def test_a_server_without_a_model_is_told_what_to_start(server: BackgroundServer) -> None:
    told = doctor("--server", server.url, key=server.key)
    assert "ok       its key is right" in told.stdout
    assert advice(told.stdout, "no model endpoint is published").startswith("start `leyden train`")


def test_each_way_in_which_a_model_is_no_use_is_told_apart(server: BackgroundServer) -> None:
    replies = {"good": Reply("hi"), "mute": Reply("hi", tokens=False), "shy": Reply("", status=401)}
    with FakeServer(lambda body, headers: replies[body["model"]]) as policy:
        publish(server, *(Endpoint(id=name, url=policy.url, model=name) for name in replies))
        publish(server, Endpoint(id="away", url=f"http://127.0.0.1:{free_port()}/v1", model="away"))
        publish(server, Endpoint(id="held", url=policy.url, model="held", state="held"))
        told = doctor("--server", server.url, key=server.key)
    assert told.returncode == 1
    assert f"ok       model good at {policy.url}, version 0 returns tokens" in told.stdout
    assert "lacks prompt_token_ids, token_ids, logprobs: serve it with vLLM" in advice(told.stdout, "model mute")
    assert advice(told.stdout, "model shy").startswith("it answered 401")
    assert advice(told.stdout, "model away").startswith("it does not answer (ConnectError)")
    assert advice(told.stdout, "model held").startswith("its trainer swaps weights now, or died")
