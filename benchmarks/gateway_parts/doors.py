"""The doors to the policy that are compared, each in a process of its own, and what a client needs to pass through."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = Path(__file__).resolve().parent
_OWN = ROOT / ".venv" / "bin" / "python"
OURS = str(_OWN if _OWN.exists() else Path(sys.executable))
"""Leyden, policy and clients run under the project's own pins, the peers under theirs."""
CLIENTS = 32


class CannotStart(Exception):
    """A peer that is not installed, or does not come up here; it is left out with this reason."""


@dataclass(frozen=True)
class Door:
    """Where clients knock: one {"base_url", "api_key"} each, and the processes whose CPU time it costs."""

    name: str
    clients: list[dict]
    pid: int | None = None
    streams: bool = True
    model: str = "stub"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def request(method: str, url: str, body: object = None, *, key: str = "") -> dict:
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
        return json.loads(answer.read())


@contextmanager
def process(command: list[str], log: Path, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen]:
    """A child that ends with the block; its output goes to `log`."""
    with log.open("wb") as output:
        child = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, cwd=log.parent
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def until(child: subprocess.Popen, log: Path, ready: Callable[[str], bool], limit_s: float) -> str:
    """The log once `ready` says so of it.

    Raises:
        CannotStart: the child ended, or was not ready in time.
    """
    ends = time.monotonic() + limit_s
    while child.poll() is None and time.monotonic() < ends:
        told = log.read_text(errors="replace")
        if ready(told):
            return told
        time.sleep(0.1)
    told = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    raise CannotStart(f"it did not come up: {told[-1][:200]}")


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=2)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def policy(folder: Path, *tokens: int) -> Iterator[Door]:
    """The stub policy server itself: the direct way. `tokens`: of prompt and answer, if not its own numbers."""
    log = folder / "policy.log"
    with process([OURS, str(PARTS / "policy.py"), *map(str, tokens)], log) as child:
        port = int(until(child, log, lambda told: told.endswith("\n"), 20))
        yield Door("direct", [{"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "none"}] * CLIENTS, child.pid)


@contextmanager
def leyden(folder: Path, direct: Door) -> Iterator[Door]:
    """`leyden serve` as users start it: SQLite on disk, every answer committed before it is given."""
    log, key, port = folder / "leyden.log", "benchmark-key", free_port()
    command = [OURS, "-m", "leyden", "serve", "--store", str(folder / "store.sqlite"), "--port", str(port)]
    with process(command, log, {"LEYDEN_KEY": key}) as child:
        until(child, log, lambda told: "serving on" in told, 30)
        url = f"http://127.0.0.1:{port}"
        endpoint = {"id": "policy", "url": direct.clients[0]["base_url"], "model": direct.model, "version": 1}
        request("PUT", f"{url}/api/endpoints/policy", endpoint, key=key)
        rollouts = [{"id": f"r{place}", "mode": "train", "task": place} for place in range(len(direct.clients))]
        request("POST", f"{url}/api/rollouts", {"rollouts": rollouts}, key=key)
        asked = {"runner": "benchmark", "limit": len(rollouts), "lease_s": 7200}
        claims = request("POST", f"{url}/api/rollouts/claim", asked, key=key)["claims"]
        yield Door("leyden", [{"base_url": f"{url}/v1", "api_key": claim["key"]} for claim in claims], child.pid)


@contextmanager
def litellm(folder: Path, direct: Door) -> Iterator[Door]:
    """LiteLLM's proxy, which records nothing."""
    log, port, config = folder / "litellm.log", free_port(), folder / "litellm.yaml"
    model = {"model": "hosted_vllm/stub", "api_base": direct.clients[0]["base_url"], "api_key": "none"}
    settings = {"dangerously_permit_weak_or_unset_master_key": True}  # it may skip its check of keys
    models = [{"model_name": "stub", "litellm_params": model}]
    config.write_text(json.dumps({"model_list": models, "general_settings": settings}))
    program = Path(sys.executable).with_name("litellm")
    if not program.exists():
        raise CannotStart("litellm is not installed beside this Python; `make bench-gateway` installs it")
    command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    with process(command, log) as child:
        until(child, log, lambda _: answers(f"http://127.0.0.1:{port}/health/liveliness"), 120)
        client = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "none"}
        yield Door("litellm", [client] * CLIENTS, child.pid)


@contextmanager
def lightning(folder: Path, direct: Door) -> Iterator[Door]:
    """agentlightning 0.3.0's LLM proxy (on LiteLLM), which keeps spans in memory."""
    log, port = folder / "lightning.log", free_port()
    upstream = direct.clients[0]["base_url"]
    command = [sys.executable, str(PARTS / "lightning.py"), str(port), upstream, str(CLIENTS)]
    env = {"HOSTED_VLLM_API_KEY": "none", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    with process(command, log, env) as child:
        told = until(child, log, lambda told: "READY " in told, 120)
        urls = json.loads(told.split("READY ", 1)[1].splitlines()[0])
        clients = [{"base_url": f"{url}/v1", "api_key": "none"} for url in urls]
        yield Door("agentlightning 0.3.0", clients, child.pid)


@contextmanager
def lightning_v1(folder: Path, direct: Door, checkout: Path) -> Iterator[Door]:
    """Agent Lightning v1's gateway from a checkout: events in memory, no streams."""
    log, port = folder / "lightning_v1.log", free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "agentlightning.server", "host=127.0.0.1", f"port={port}", "hydra.run.dir=."]
    with process([*command, "default_proxy.model_name=stub"], log, {"PYTHONPATH": str(checkout)}) as child:
        until(child, log, lambda _: answers(f"{url}/healthz"), 60)
        request("POST", f"{url}/api/models", [{"model": "stub", "endpoint": direct.clients[0]["base_url"]}])
        queued = [{"input": place, "rollout_id": f"r{place}"} for place in range(CLIENTS)]
        request("POST", f"{url}/api/rollouts", queued)
        path = "proxy/rollout/r{}/attempt/0/mode/train/openai/v1"
        clients = [{"base_url": f"{url}/{path.format(place)}", "api_key": "none"} for place in range(CLIENTS)]
        yield Door("agentlightning v1", clients, child.pid, streams=False)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder on a real disk, in the working tree, so that a flush is a flush."""
    place = ROOT / ".cache"
    place.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place, prefix="gateway-", ignore_cleanup_errors=True) as made:
        yield Path(made)
