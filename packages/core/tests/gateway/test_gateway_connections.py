"""What a policy server may do with its connections, byte by byte, and what the agent gets then."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import httpx
import pytest

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.types import Endpoint, Rollout, new_id

PATH = "/v1/chat/completions"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
BODY = json.dumps(
    {"choices": [{"message": {"role": "assistant", "content": "moin"}, "finish_reason": "stop"}]}
).encode()
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    BODY[:5],
    len(BODY) - 5,
    BODY[5:],
)


@dataclass
class Wire:
    """A policy server that says these bytes to each request, in pieces of this size, and closes if it is to."""

    says: bytes = WHOLE
    piece: int = 1 << 16
    closes: bool = False
    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list[bytes])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                for start in range(0, len(self.says), self.piece):
                    writer.write(self.says[start : start + self.piece])
                    await writer.drain()
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return  # the gateway has closed
        finally:
            writer.close()


@dataclass(frozen=True)
class Served:
    """A server with one running rollout, "a", and that rollout's key."""

    url: str
    operator: str
    key: str

    async def publish(self, wire: Wire, key: str) -> None:
        store = HttpStore(self.url, self.operator)
        url, model = f"http://127.0.0.1:{wire.port}/v1", new_id()
        await store.publish(Endpoint(url=url, model=model, version=6, key=key))
        await store.close()
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {self.key}"}) as client:
            while model not in (await client.get(f"{self.url}/v1/models")).text:
                pass  # the gateway may know the endpoints of some milliseconds ago


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    async def claimed(server: BackgroundServer) -> str:
        store = HttpStore(server.url, server.key)
        await store.queue([Rollout(id="a", mode="train")])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        await store.close()
        return claim.key or ""

    with BackgroundServer(tmp_path_factory.mktemp("served") / "store.sqlite") as server:
        yield Served(server.url, server.key, asyncio.run(claimed(server)))


@pytest.fixture
async def wire(served: Served) -> AsyncIterator[Wire]:
    wire = Wire()
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    await served.publish(wire, "secret")
    async with server:
        yield wire


@pytest.fixture
async def agent(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {served.key}"}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, timeout=60) as agent:
        yield agent


@pytest.mark.parametrize("piece", [1 << 16, 1])
@pytest.mark.parametrize(
    ("says", "closes"),
    [
        (WHOLE, False),
        (CHUNKED, False),
        (b"HTTP/1.1 100 Continue\r\nx: y\r\n\r\n" + WHOLE, False),
        (b"HTTP/1.0 200 OK\r\n\r\n" + BODY, True),
    ],
    ids=["length", "chunks", "after 100 Continue", "until it closes"],
)
async def test_an_answer_is_the_same_however_it_is_cut(
    wire: Wire, agent: httpx.AsyncClient, says: bytes, closes: bool, piece: int
) -> None:
    wire.says, wire.closes, wire.piece = says, closes, piece
    answer = await agent.post(PATH, json=ASKED)
    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "moin")


async def test_a_request_is_whole_and_carries_the_endpoints_key_not_the_agents(
    wire: Wire, agent: httpx.AsyncClient
) -> None:
    await agent.post(PATH, json=ASKED)
    head, _, body = wire.requests[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    named = dict(header.split(": ", 1) for header in headers)
    assert line == f"POST {PATH} HTTP/1.1"
    assert named["host"] == f"127.0.0.1:{wire.port}"
    assert (named["authorization"], named["x-leyden-rollout"]) == ("Bearer secret", "a/1")
    assert json.loads(body)["messages"] == ASKED["messages"]


@pytest.mark.parametrize(
    ("says", "closes"),
    [
        (b"", True),
        (WHOLE[:-1], True),
        (CHUNKED[:-5], True),
        (b"SSH-2.0-OpenSSH_9.6\r\n", False),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", False),
    ],
    ids=["closed at once", "a byte too few", "no last chunk", "no HTTP", "another protocol"],
)
async def test_what_is_no_answer_is_a_502_that_names_the_endpoint(
    wire: Wire, agent: httpx.AsyncClient, says: bytes, closes: bool
) -> None:
    wire.says, wire.closes = says, closes
    answer = await agent.post(PATH, json=ASKED)
    assert answer.status_code == 502
    assert f"endpoint policy at http://127.0.0.1:{wire.port}/v1 did not answer request" in answer.text


@pytest.mark.parametrize(
    ("says", "connections"),
    [
        (WHOLE, 1),
        (CHUNKED, 1),
        (WHOLE.replace(b"\r\n", b"\r\nconnection: close\r\n", 1), 3),
        (WHOLE + WHOLE, 3),
    ],
    ids=["length", "chunks", "that says close", "with another answer behind it"],
)
async def test_a_connection_is_used_again_after_a_complete_answer_unless_it_may_not(
    wire: Wire, agent: httpx.AsyncClient, says: bytes, connections: int
) -> None:
    wire.says = says
    for _ in range(3):
        answer = await agent.post(PATH, json=ASKED)
        assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "moin")
    assert wire.connections == connections


async def test_a_refusal_reaches_the_agent_with_when_to_come_again(wire: Wire, agent: httpx.AsyncClient) -> None:
    wire.says = b"HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\nRetry-After: 7\r\nset-cookie: a=b\r\n\r\nbusy"
    answer = await agent.post(PATH, json=ASKED)
    assert (answer.status_code, answer.text, answer.headers["retry-after"]) == (429, "busy", "7")
    assert "set-cookie" not in answer.headers


async def test_a_stream_that_comes_faster_than_it_is_read_loses_nothing(wire: Wire, agent: httpx.AsyncClient) -> None:
    words = [f"{number}:" + "x" * 100_000 for number in range(60)]
    chunks = [{"choices": [{"delta": {"content": word}, "finish_reason": None}]} for word in words]
    chunks[-1]["choices"][0]["finish_reason"] = "stop"
    events = b"".join(b"data: %b\n\n" % json.dumps(chunk).encode() for chunk in chunks) + b"data: [DONE]\n\n"
    wire.says = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(events) + events
    )
    async with agent.stream("POST", PATH, json={**ASKED, "stream": True}) as answer:
        came = [json.loads(line[6:]) async for line in answer.aiter_lines() if line.startswith("data: {")]
    assert [chunk["choices"][0]["delta"]["content"] for chunk in came] == words


async def test_a_key_that_would_write_headers_of_its_own_is_not_sent(
    served: Served, wire: Wire, agent: httpx.AsyncClient
) -> None:
    await served.publish(wire, "k\r\nx-forged: 1")
    answer = await agent.post(PATH, json=ASKED)
    assert (answer.status_code, "no header can hold" in answer.text, wire.requests) == (502, True, [])
