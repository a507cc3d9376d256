from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from pydantic import BaseModel

from leyden.capture import flush, install_capture, uninstall_capture
from leyden.client import HttpStore
from leyden.scope import Scope, enter_scope
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Call, Endpoint, Rollout


def model(**more: Any) -> ChatOpenAI:
    return ChatOpenAI(model="m", base_url="http://127.0.0.1:9", api_key="sk-x", max_retries=0, **more)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def captured() -> Iterator[None]:
    install_capture(require_scope=True)
    yield
    uninstall_capture()


async def calls_of(tmp_path: Path, replies: Any, run: Any, *, mode: Any = "train") -> list[Call]:
    """Run in a rollout behind a real gateway; its calls as the store has them."""
    import asyncio

    with FakeServer(replies) as policy, BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="m"))
        await store.queue([Rollout(id="a", mode=mode)])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        with enter_scope(Scope("a", 1, server.url, claim.key, gateway=mode != "trace")) as scope:
            await asyncio.to_thread(run)
        await asyncio.to_thread(flush, scope, timeout_s=10)
        assert scope.losses == []
        calls = await store.calls(["a"])
        assert [call.id for call in calls] == scope.call_ids
        await store.close()
        return calls


async def test_the_nodes_of_a_plain_graph_are_its_agents(tmp_path: Path) -> None:
    llm = model()

    def speak(state: MessagesState) -> dict:
        return {"messages": [llm.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("planner", speak)
    graph.add_node("answerer", speak)
    graph.add_edge(START, "planner")
    graph.add_edge("planner", "answerer")
    graph.add_edge("answerer", END)
    app = graph.compile()
    replies = [Reply("first"), Reply("second")]
    calls = await calls_of(tmp_path, replies, lambda: app.invoke({"messages": [HumanMessage("go")]}))
    structures = [call.structure for call in calls]
    assert [s.agent for s in structures if s] == [("planner",), ("answerer",)]
    assert [s.node for s in structures if s] == ["planner", "answerer"]
    assert {s.framework for s in structures if s} == {"langgraph"}
    assert [s.outcome for s in structures if s] == ["returned", "returned"]
    assert all(call.captured_by == ("adapter", "gateway") for call in calls)


async def test_an_agents_tools_lie_under_the_call_that_asked_for_them(tmp_path: Path) -> None:
    @tool
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    replies = [Reply("", tool_calls=[("double", {"number": 21})]), Reply("42")]
    agent = create_agent(model(), [double], name="solver")
    calls = await calls_of(tmp_path, replies, lambda: agent.invoke({"messages": [HumanMessage("2 x 21?")]}))
    assert [call.structure.agent for call in calls if call.structure] == [("solver",), ("solver",)]
    (use,) = calls[0].tools
    assert (use.name, use.arguments, use.result) == ("double", {"number": 21}, "42")
    assert calls[0].answer is not None
    assert use.tool_call_id == calls[0].answer.choices[0].message["tool_calls"][0]["id"]  # type: ignore[index]
    assert calls[1].tools == ()


async def test_an_answer_that_cannot_be_parsed_keeps_its_tokens(tmp_path: Path) -> None:
    class City(BaseModel):
        name: str

    def run() -> None:
        with pytest.raises(Exception, match="City"):
            model().with_structured_output(City, method="json_schema").invoke("where?")

    (call,) = await calls_of(tmp_path, [Reply("no JSON at all")], run)
    assert call.answer is not None
    assert call.answer.choices[0].token_ids
    assert call.structure is not None
    assert call.structure.outcome == "raised"


async def test_streams_and_batches_are_one_call_for_each_request(tmp_path: Path) -> None:
    def run() -> None:
        assert "".join(chunk.text for chunk in model().stream("hi")) == "said"
        assert [m.text for m in model().batch(["a", "b"])] == ["said", "said"]

    calls = await calls_of_unordered(tmp_path, run)
    assert len(calls) == 3
    assert all(call.answer is not None and call.answer.choices[0].token_ids for call in calls)


async def calls_of_unordered(tmp_path: Path, run: Any) -> list[Call]:
    """As `calls_of`, for runs whose requests are in parallel."""
    import asyncio

    with (
        FakeServer(lambda body, headers: Reply("said")) as policy,
        BackgroundServer(tmp_path / "store.sqlite") as server,
    ):
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="m"))
        await store.queue([Rollout(id="a")])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        with enter_scope(Scope("a", 1, server.url, claim.key)) as scope:
            await asyncio.to_thread(run)
        await asyncio.to_thread(flush, scope, timeout_s=10)
        calls = await store.calls(["a"])
        assert sorted(call.id for call in calls) == sorted(scope.call_ids)
        await store.close()
        return calls
