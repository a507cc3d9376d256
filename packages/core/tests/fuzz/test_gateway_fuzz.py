"""Wrong requests to every door, and answers of a policy that are cut, garbled or wrong: no fault, no hang, no loss.

No loss: a call that was let in has a terminal record, and an answer that agents see was committed.
"""

import asyncio
import json
import string
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leyden.client import HttpStore
from leyden.gateway.doors import DOORS
from leyden.server.limits import Limits
from leyden.server.options import ServerOptions
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.testing.serving import serve
from leyden.types import Call, Endpoint, Rollout, new_id

QUIET: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
SAID = "good morning 😀, how are you?"
TOOL = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "m",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "tools": [{"type": "function", "function": TOOL}],
        "stream_options": {"include_usage": True},
        "n": 1,
        "stream": False,
        "logprobs": True,
    },
    "/v1/completions": {"model": "m", "prompt": "hi", "logprobs": 0, "stream": False, "n": 1},
    "/v1/responses": {
        "model": "m",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
        ],
        "tools": [{"type": "function", **TOOL}],
        "previous_response_id": None,
        "include": [],
        "instructions": "be kind",
        "stream": False,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "text"}},
    },
    "/v1/messages": {
        "model": "m",
        "max_tokens": 9,
        "system": [{"type": "text", "text": "be kind"}],
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": "1"}]},
        ],
        "tools": [{"name": "f", "input_schema": TOOL["parameters"]}],
        "tool_choice": {"type": "auto"},
        "stream": False,
    },
}


class Upstream:
    """A policy server that answers with the bytes that it is told, in the pieces that it is told."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.kind = b"application/json"

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for done in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{done}.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", self.kind)]})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class Gate:
    """A server, the rollout that runs in it, and how its policy answers."""

    def __init__(self, server: BackgroundServer, upstream: Upstream, key: str) -> None:
        self.upstream = upstream
        self._client = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=20)
        self._operator = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"})
        self.statuses: Counter[str] = Counter()
        self.faults: list[str] = []

    def ask(self, path: str, content: bytes, **headers: str) -> tuple[httpx.Response, Call | None]:
        """The answer, and the call's record if it was let in; counted, and kept if it is a fault of ours."""
        response = self._client.post(path, content=content, headers={"Content-Type": "application/json", **headers})
        call_id = response.headers.get("x-leyden-call")
        record = None
        if call_id is not None:
            told = self._operator.get(f"/api/calls/{quote(call_id, safe='')}")
            record = Call.model_validate(told.json()) if told.status_code == 200 else None
        lost = call_id is not None and (record is None or record.status is None)
        if response.status_code in (500, 503) or lost:
            self.faults.append(f"{path} {content[:800]!r} {headers} -> {response.status_code} {response.text[:300]}")
        self.statuses[f"{response.status_code}{'' if record is None else f' {record.status}'}"] += 1
        return response, record

    def conclude(self, what: str) -> list[str]:
        """Print what was answered; the faults among it."""
        told = ", ".join(f"{number} x {status}" for status, number in sorted(self.statuses.items()))
        print(f"\n{what}: {self.statuses.total()} calls, answered {told}; {len(self.faults)} faults")
        faults, self.faults, self.statuses = self.faults, [], Counter()
        return faults


@pytest.fixture(scope="module")
def answers() -> dict[str, bytes]:
    """A right answer of a policy server, whole and as a stream."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "return_token_ids": True}
    usage = {"stream_options": {"include_usage": True}}
    with FakeServer(lambda body, headers: Reply(SAID)) as policy:
        whole = httpx.post(f"{policy.url}/chat/completions", json=body)
        stream = httpx.post(f"{policy.url}/chat/completions", json={**body, "stream": True, **usage})
    return {"whole": whole.content, "stream": stream.content}


async def prepared(server: BackgroundServer, url: str) -> str:
    store = HttpStore(server.url, server.key)
    await store.publish(Endpoint(url=f"{url}/v1", model="m", version=1))
    await store.queue([Rollout(id="a", mode="train")])
    (claim,) = await store.claim("me", limit=1, lease_s=6000)
    await store.close()
    return claim.key or ""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    upstream = Upstream()
    options = ServerOptions(limits=Limits(requests_per_s=0))
    folder = tmp_path_factory.mktemp("fuzz")
    with serve(upstream.app) as url, BackgroundServer(folder / "store.sqlite", options) as server:
        yield Gate(server, upstream, asyncio.run(prepared(server, url)))


def chat(stream: bool) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    return json.dumps(body).encode()


def test_no_changed_request_to_a_door_is_a_fault_of_ours(
    gate: Gate, answers: dict[str, bytes], fuzz_examples: int, mutated: Any
) -> None:
    @settings(max_examples=fuzz_examples * 40, **QUIET)
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(sorted(DOORS)))
        body = data.draw(mutated([REQUESTS[path]]))
        streamed = isinstance(body, dict) and bool(body.get("stream"))
        gate.upstream.pieces = [answers["stream" if streamed else "whole"]]
        gate.ask(path, json.dumps(body).encode())

    ask()
    assert gate.conclude("changed requests") == []


def test_no_bytes_and_no_headers_are_a_fault_of_ours(gate: Gate, answers: dict[str, bytes], fuzz_examples: int) -> None:
    right = {path: json.dumps(body).encode() for path, body in REQUESTS.items()}
    names = st.sampled_from(["X-Leyden-Call", "X-Leyden-Structure", "x-stainless-retry-count"])
    values = st.text(string.printable.strip() + " ", max_size=300).map(str.strip) | st.just("9" * 5000)

    @settings(max_examples=fuzz_examples * 20, **QUIET)
    @given(st.sampled_from(sorted(right)), st.integers(0, 400), st.binary(max_size=8), st.dictionaries(names, values))
    def ask(path: str, place: int, wrong: bytes, headers: dict[str, str]) -> None:
        gate.upstream.pieces = [answers["whole"]]
        gate.ask(path, right[path][:place] + wrong + right[path][place + len(wrong) :], **headers)
        gate.ask(path, wrong, **headers)

    ask()
    assert gate.conclude("wrong bytes and headers") == []


def test_a_stream_cut_at_any_bytes_says_and_keeps_the_same(
    gate: Gate, answers: dict[str, bytes], fuzz_examples: int
) -> None:
    stream = answers["stream"]
    gate.upstream.pieces = [stream]
    whole, kept = gate.ask("/v1/chat/completions", chat(stream=True))
    assert kept is not None
    assert kept.answer is not None
    assert kept.answer.choices[0].token_ids

    @settings(max_examples=fuzz_examples * 5, **QUIET)
    @given(st.lists(st.integers(1, len(stream) - 1), max_size=40).map(lambda cuts: sorted(set(cuts))))
    def ask(cuts: list[int]) -> None:
        gate.upstream.pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        said, record = gate.ask("/v1/chat/completions", chat(stream=True))
        assert said.content == whole.content
        assert record is not None
        assert record.answer is not None
        assert record.answer.choices == kept.answer.choices  # type: ignore[union-attr]

    ask()
    assert gate.conclude("streams cut anywhere") == []


def test_no_garbled_answer_of_a_policy_is_a_fault_of_ours_and_each_is_on_record(
    gate: Gate, answers: dict[str, bytes], fuzz_examples: int, mutated: Any
) -> None:
    whole = json.loads(answers["whole"])
    chunks = [json.loads(line[6:]) for line in answers["stream"].decode().splitlines() if line.startswith("data: {")]

    @settings(max_examples=fuzz_examples * 40, **QUIET)
    @given(st.data())
    def ask(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(["/v1/chat/completions", "/v1/responses", "/v1/messages"]))
        streamed = data.draw(st.booleans())
        raw = answers["stream" if streamed else "whole"]
        match data.draw(st.sampled_from(["bytes", "end", "json"])):
            case "bytes":
                place, wrong = data.draw(st.integers(0, len(raw))), data.draw(st.binary(min_size=1, max_size=6))
                raw = raw[:place] + wrong + raw[place + len(wrong) :]
            case "end":
                raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
            case _ if streamed:
                number = data.draw(st.integers(0, len(chunks) - 1))
                changed = [*chunks[:number], data.draw(mutated([chunks[number]])), *chunks[number + 1 :]]
                raw = (
                    b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in changed)
                    + b"data: [DONE]\n\n"
                )
            case _:
                raw = json.dumps(data.draw(mutated([whole]))).encode()
        gate.upstream.pieces = [raw]
        body = {**REQUESTS[path], "stream": streamed}
        response, record = gate.ask(path, json.dumps(body).encode(), **{"X-Leyden-Call": new_id()})
        assert response.status_code in (200, 502), response.text
        if not gate.faults:
            assert record is not None

    ask()
    assert gate.conclude("garbled answers") == []
