"""`leyden doctor`: what is wrong with this set-up, and what to do."""

import asyncio
import importlib.metadata
import importlib.util
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from packaging.requirements import Requirement
from pydantic import BaseModel, JsonValue, ValidationError

from leyden.compatibility import fits
from leyden.errors import BadConfig, LeydenError
from leyden.types import Endpoint

__all__ = ["Finding", "doctor", "findings", "python_finding"]

_ADAPTERS = {"langchain-core": "langchain", "openai-agents": "openai-agents", "autogen-agentchat": "autogen"}
"""The adapter of each framework, by its distribution."""
_HOOKED = Requirement("openai>=1.109,<4")
"""The client that the hook patches; what an adapter is for, its own metadata says."""


@dataclass(frozen=True)
class Finding:
    """One line; `advice` is what to do if it is not ok."""

    ok: bool
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"ok       {self.text}" if self.ok else f"problem  {self.text}\n         {self.advice}"


def doctor(
    server: Annotated[str | None, typer.Option(help="Also look at this server; its key in $LEYDEN_KEY.")] = None,
    port: Annotated[int, typer.Option(help="The port that `leyden serve` would use.")] = 4700,
    config: Annotated[Path | None, typer.Option(help="Also look at what a run of this TOML file needs.")] = None,
) -> None:
    """Check versions, adapters, the port, the server, its key and its model, and what a run needs.

    Example: leyden doctor --config train.toml

    Example: LEYDEN_KEY=... leyden doctor --server http://127.0.0.1:4700
    """
    found = asyncio.run(findings(server=server, port=port, config=config))
    for finding in found:
        print(finding)
    if not all(finding.ok for finding in found):
        raise typer.Exit(1)


async def findings(*, server: str | None, port: int, config: Path | None) -> list[Finding]:
    """What `leyden doctor` looks at, in order."""
    found = [python_finding(*sys.version_info[:3]), *_frameworks(), *_adapters(), _trainer()]
    found += _run(config) if config else []
    return found + (await _server(server) if server else [_port(port)])


def python_finding(major: int, minor: int, micro: int) -> Finding:
    """Whether this Python is one that Leyden is for."""
    version = f"{major}.{minor}.{micro}"
    good = (3, 11) <= (major, minor) <= (3, 13)
    return Finding(good, f"Python {version}, leyden {importlib.metadata.version('leyden')}", "use Python 3.11 to 3.13")


def _frameworks() -> list[Finding]:
    """Each framework that is here, by the bounds of the adapter (its test extra's too) that captures it."""
    tested = {_HOOKED.name: _HOOKED}
    for entry in importlib.metadata.entry_points(group="leyden.adapters"):
        needed = [Requirement(line) for line in (entry.dist and entry.dist.requires) or ()]
        tested |= {one.name: one for one in needed if one.name != "leyden"}
    findings: list[Finding] = []
    for name, requirement in sorted(tested.items()):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        advice = f'tested is {requirement.specifier}: pip install "{name}{requirement.specifier}"'
        findings.append(Finding(requirement.specifier.contains(version, prereleases=True), f"{name} {version}", advice))
    return findings


def _adapters() -> list[Finding]:
    entries = importlib.metadata.entry_points(group="leyden.adapters")
    findings = [_missing_adapter(name) for name, adapter in _ADAPTERS.items() if adapter not in entries.names]
    findings = [finding for finding in findings if not finding.ok]
    if not entries and not findings:
        return [Finding(True, "no adapter is installed: calls are captured without structure")]
    for entry in entries:
        try:
            entry.load()
        except ImportError as error:
            findings.append(Finding(False, f"adapter {entry.name}: {error}", "install its package and framework again"))
        else:
            findings.append(Finding(True, f"adapter {entry.name}"))
    return findings


def _missing_adapter(framework: str) -> Finding:
    there = any(importlib.metadata.distributions(name=framework))
    package = f"leyden-{_ADAPTERS[framework]}"
    return Finding(
        not there, f"{framework} without its adapter", f"pip install {package}, or calls have no agent's name"
    )


def _run(config: Path) -> list[Finding]:
    if importlib.util.find_spec("leyden_trainer") is None:
        raise BadConfig("--config needs the package leyden-trainer in this environment")
    findings: list[Finding] = importlib.import_module("leyden_trainer.checkup").findings(config)
    return findings


def _trainer() -> Finding:
    if importlib.util.find_spec("leyden_trainer") is None:
        return Finding(True, "no trainer here: this environment runs agents")
    has_torch = importlib.util.find_spec("torch") is not None
    return Finding(has_torch, "the trainer is installed", "it needs torch: pip install torch==2.13.0")


def _port(port: int) -> Finding:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return Finding(True, f"port {port} is free")
    except OSError as error:
        return Finding(False, f"port {port}: {error.strerror}", "end what uses it, or `leyden serve --port 0`")


async def _server(url: str) -> list[Finding]:
    from leyden.client import HttpStore

    key = os.environ.get("LEYDEN_KEY")
    if not key:
        advice = "set LEYDEN_KEY to the operator's key; `leyden serve` says where it is"
        return [Finding(False, f"no key for {url}", advice)]
    store = HttpStore(url, key)
    try:
        findings = [_version(url, str((await store.health()).get("version")))]
    except LeydenError as error:
        return [Finding(False, f"server {url}", str(error))]
    else:
        return findings + (await _endpoints(store) if findings[0].ok else [])
    finally:
        await store.close()


def _version(url: str, version: str) -> Finding:
    ours = importlib.metadata.version("leyden")
    advice = f"the server at {url} is leyden {version}, this is leyden {ours}: install versions that fit on both sides"
    return Finding(fits(ours, version), f"server {url} answers, leyden {version}", advice)


async def _endpoints(store: Any) -> list[Finding]:
    try:
        endpoints: list[Endpoint] = await store.endpoints()
    except LeydenError as error:
        return [Finding(False, "the key in LEYDEN_KEY", str(error))]
    findings = [Finding(True, "its key is right")]
    if not endpoints:
        advice = "start `leyden train`, or name a model with `leyden run --model-url`"
        findings.append(Finding(False, "no model endpoint is published", advice))
    return findings + [await _endpoint(endpoint) for endpoint in endpoints]


async def _endpoint(endpoint: Endpoint) -> Finding:
    name = f"model {endpoint.model} at {endpoint.url}, version {endpoint.version}"
    if endpoint.state == "held":
        return Finding(False, f"{name}, is held", "its trainer swaps weights now, or died while it did: start it again")
    return await _model(name, endpoint)


async def _model(name: str, endpoint: Endpoint) -> Finding:
    """One tiny request, to see whether tokens and log probabilities come back."""
    import httpx

    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 1,
        "logprobs": True,
        "return_token_ids": True,
    }
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    try:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            response = await client.post(f"{endpoint.url}/chat/completions", json=body, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding(False, name, f"it does not answer ({type(error).__name__}): start its policy server again")
    if response.status_code != 200:
        return Finding(False, name, f"it answered {response.status_code}: {response.text[:200]}")
    missing = _missing(response.content)
    advice = f"its answer lacks {', '.join(missing)}: serve it with vLLM 0.10.2 or newer"
    return Finding(not missing, f"{name} returns tokens" if not missing else name, advice)


class _Choice(BaseModel):
    token_ids: list[int] | None = None
    logprobs: JsonValue = None


class _Answer(BaseModel):
    """What training needs of an answer."""

    prompt_token_ids: list[int] | None = None
    choices: list[_Choice] = []


def _missing(raw: bytes) -> list[str]:
    try:
        answer = _Answer.model_validate_json(raw)
    except ValidationError:
        return ["OpenAI's form"]
    if not answer.choices:
        return ["choices"]
    first = answer.choices[0]
    needed = {"prompt_token_ids": answer.prompt_token_ids, "token_ids": first.token_ids, "logprobs": first.logprobs}
    return [name for name, value in needed.items() if not value]
