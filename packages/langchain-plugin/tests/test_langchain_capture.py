"""What is LangChain's and LangGraph's own, beyond the contract of all adapters."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Send
from pydantic import BaseModel

from leyden.capture import install_capture, uninstall_capture
from leyden.testing.capture_trial import Captured, CaptureTrial
from leyden.testing.fake_server import Reply
from leyden.types import Call, Structure
from leyden_langchain import LeydenCallbackHandler


def model(url: str, **more: Any) -> ChatOpenAI:
    return ChatOpenAI(**{"model": "m", "base_url": url, "api_key": "sk-x", "max_retries": 0, **more})


@pytest.fixture(autouse=True)
def captured() -> Iterator[None]:
    install_capture(require_scope=True)
    yield
    uninstall_capture()


def echo(body: Any, headers: Any) -> Reply:
    """Says the last message again."""
    return Reply(f"heard {body['messages'][-1]['content']}")


async def run(folder: Path, script: Any, agent: Any, *, gateway: bool = True) -> Captured:
    """One rollout of `agent`, a function of (task, url); what it raised is raised here."""
    async with CaptureTrial(folder, script, gateway=gateway) as trial:
        captured = await trial.captured(agent, "task")
    if captured.error is not None:
        raise captured.error
    assert (captured.rollout.status, captured.rollout.incomplete) == ("succeeded", ())
    return captured


def structures(captured: Captured) -> list[Structure]:
    assert all(call.structure for call in captured.calls)
    return [call.structure for call in captured.calls if call.structure]


def heard(call: Call) -> Any:
    return call.request.messages[-1]["content"] if call.request else None


def said(call: Call) -> Any:
    return call.answer.choices[0].message["content"] if call.answer else None


def speaking(url: str, name: str = "m") -> Any:
    def speak(state: Any) -> dict[str, Any]:
        return {"messages": [model(url, model=name).invoke(state["messages"])]}

    return speak


async def test_the_nodes_of_a_plain_graph_are_its_agents(tmp_path: Path) -> None:
    async def agent(task: str, url: str) -> None:
        graph: Any = StateGraph(MessagesState)
        graph.add_node("planner", speaking(url))
        graph.add_node("answerer", speaking(url))
        graph.add_edge(START, "planner")
        graph.add_edge("planner", "answerer")
        graph.add_edge("answerer", END)
        await graph.compile().ainvoke({"messages": [HumanMessage(task)]})

    told = structures(await run(tmp_path, echo, agent))
    assert [(s.framework, s.agent, s.node, s.step) for s in told] == [
        ("langgraph", ("planner",), "planner", 1),
        ("langgraph", ("answerer",), "answerer", 2),
    ]


async def test_an_agent_that_is_a_node_of_a_named_agents_graph_is_below_it(tmp_path: Path) -> None:
    async def agent(task: str, url: str) -> None:
        inner: Any = StateGraph(MessagesState)
        inner.add_node("writer", create_agent(model(url), [], name="writer"))
        inner.add_node("checker", speaking(url))
        inner.add_edge(START, "writer")
        inner.add_edge("writer", "checker")
        outer: Any = StateGraph(MessagesState)
        outer.add_node("team", inner.compile())
        outer.add_edge(START, "team")
        await outer.compile().ainvoke({"messages": [HumanMessage(task)]})

    told = structures(await run(tmp_path, echo, agent))
    assert [s.agent for s in told] == [("writer",), ("team", "checker")]
    assert [(s.namespace or "").count("|") for s in told] == [2, 1]


async def test_branches_that_send_made_have_the_same_node_and_a_namespace_of_their_own(tmp_path: Path) -> None:
    async def agent(task: str, url: str) -> None:
        graph: Any = StateGraph(MessagesState)
        graph.add_node("branch", speaking(url))
        sends = [Send("branch", {"messages": [HumanMessage(text)]}) for text in ("one", "two", "three")]
        graph.add_conditional_edges(START, lambda state: sends, ["branch"])
        await graph.compile().ainvoke({"messages": [HumanMessage(task)]})

    captured = await run(tmp_path, echo, agent)
    told = structures(captured)
    assert {(s.agent, s.node) for s in told} == {(("branch",), "branch")}
    assert len({s.namespace for s in told}) == 3
    assert sorted(map(heard, captured.calls)) == ["one", "three", "two"]


async def test_batches_and_streams_are_one_call_for_each_request_with_a_run_of_its_own(tmp_path: Path) -> None:
    async def agent(task: str, url: str) -> None:
        llm = model(url)
        assert [m.text for m in await llm.abatch(["a", "b"])] == ["heard a", "heard b"]
        assert [m.text for m in await asyncio.to_thread(llm.batch, ["c", "d"])] == ["heard c", "heard d"]
        assert "".join([chunk.text async for chunk in llm.astream("e")]) == "heard e"
        assert "".join(chunk.text for chunk in llm.stream("f")) == "heard f"
        events = [event async for event in llm.astream_events("g", version="v2")]
        assert events[-1]["data"]["output"].text == "heard g"

    captured = await run(tmp_path, echo, agent)
    told = structures(captured)
    assert sorted(map(heard, captured.calls)) == list("abcdefg")
    assert len({s.run_id for s in told}) == 7
    assert {s.outcome for s in told} == {"returned"}


async def test_several_prompts_in_one_generate_are_each_tied_to_their_own_run(tmp_path: Path) -> None:
    runs: dict[str, str] = {}

    async def agent(task: str, url: str) -> None:
        for result in (
            await model(url).agenerate([[HumanMessage("a")], [HumanMessage("b")]]),
            model(url).generate([[HumanMessage("c")], [HumanMessage("d")]]),
        ):
            for generations, info in zip(result.generations, result.run or (), strict=True):
                runs[generations[0].text] = str(info.run_id)

    captured = await run(tmp_path, echo, agent)
    assert {said(call): call.structure.run_id for call in captured.calls if call.structure} == runs
    assert len(runs) == 4


async def test_structured_output_that_cannot_be_parsed_is_an_answer_and_raised(tmp_path: Path) -> None:
    class City(BaseModel):
        name: str

    async def agent(task: str, url: str) -> None:
        with pytest.raises(Exception, match="City"):
            await model(url).with_structured_output(City, method="json_schema").ainvoke(task)

    captured = await run(tmp_path, lambda body, headers: Reply("no JSON at all"), agent)
    (call,) = captured.calls
    assert call.answer is not None
    assert call.answer.choices[0].token_ids
    assert [(s.outcome, "City" in (s.error or "")) for s in structures(captured)] == [("raised", True)]


async def test_a_retry_and_a_fallback_are_calls_of_their_own(tmp_path: Path) -> None:
    faults = iter([Reply(status=500), Reply("second"), Reply(status=400), Reply("third")])

    async def agent(task: str, url: str) -> list[str]:
        retried = model(url).with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
        other = model(url, model="other")
        return [(await retried.ainvoke("a")).text, (await model(url).with_fallbacks([other]).ainvoke("b")).text]

    captured = await run(tmp_path, lambda body, headers: next(faults), agent)
    assert captured.result == ["second", "third"]
    assert [s.outcome for s in structures(captured)] == ["raised", "returned", "raised", "returned"]
    assert [call.status for call in captured.calls] == ["error", "ok", "error", "ok"]
    assert [call.request.asked["model"] for call in captured.calls if call.request] == ["m", "m", "m", "other"]


async def test_a_cancelled_invoke_of_which_langchain_tells_nothing_is_on_record_as_cancelled(tmp_path: Path) -> None:
    never = threading.Event()
    async with CaptureTrial(tmp_path, lambda body, headers: Reply("late", delay=never)) as trial:

        async def agent(task: str, url: str) -> None:
            asking = asyncio.ensure_future(model(url).ainvoke(task))
            await asyncio.to_thread(trial.policy.wait_requests, 1)
            asking.cancel()
            await asking

        captured = await trial.captured(agent, "task")
    assert isinstance(captured.error, asyncio.CancelledError)
    assert [call.status for call in captured.calls] == ["cancelled"]
    assert captured.rollout.incomplete == ()


async def test_a_users_own_handler_hears_of_the_start_of_an_asynchronous_completion(tmp_path: Path) -> None:
    class Heard(BaseCallbackHandler):
        events: ClassVar[list[str]] = []

        def on_llm_start(self, serialized: Any, prompts: list[str], **more: Any) -> None:
            self.events.append(f"start {prompts[0]}")

        def on_llm_end(self, response: Any, **more: Any) -> None:
            self.events.append("end")

    async def agent(task: str, url: str) -> None:
        await FakeListLLM(responses=["a", "b"]).agenerate(["one", "two"], callbacks=[Heard()])

    captured = await run(tmp_path, echo, agent, gateway=False)
    assert (sorted(Heard.events), len(captured.calls)) == (["end", "end", "start one", "start two"], 2)


async def test_an_answer_from_langchains_cache_is_no_call(tmp_path: Path) -> None:
    async def agent(task: str, url: str) -> list[str]:
        llm = model(url, cache=InMemoryCache())
        return [(await llm.ainvoke(task)).text, (await llm.ainvoke(task)).text]

    captured = await run(tmp_path, echo, agent)
    assert captured.result == ["heard task", "heard task"]
    assert len(captured.calls) == 1


@tool
def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


def doubling(body: Any, headers: Any) -> Reply:
    asked = body["messages"][-1]["role"] == "user"
    return Reply("", tool_calls=[("double", {"number": 21})]) if asked else Reply("42")


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("by_hand", [True, False])
async def test_without_a_gateway_the_record_is_readable_and_whole_and_there_once(
    tmp_path: Path, installed: bool, by_hand: bool
) -> None:
    if not installed:
        uninstall_capture()

    async def agent(task: str, url: str) -> None:
        config: Any = {"callbacks": [LeydenCallbackHandler()]} if by_hand else {}
        solver: Any = create_agent(model(url, temperature=0.5), [double], system_prompt="Solve.", name="solver")
        await solver.ainvoke({"messages": [HumanMessage(task)]}, config)

    captured = await run(tmp_path, doubling, agent, gateway=False)
    if not (installed or by_hand):
        assert captured.calls == ()
        return
    first, second = captured.calls
    assert first.request is not None
    assert [(m["role"], m["content"]) for m in first.request.messages] == [("system", "Solve."), ("user", "task")]
    assert [some["function"]["name"] for some in first.request.tools] == ["double"]  # type: ignore[index,call-overload]
    assert (first.request.asked["model"], first.request.asked["temperature"]) == ("m", 0.5)
    assert first.answer is not None
    assert first.answer.choices[0].finish_reason == "tool_calls"
    assert first.answer.choices[0].message["tool_calls"][0]["function"]["name"] == "double"  # type: ignore[index,call-overload]
    assert first.answer.usage is not None
    assert [(use.name, use.arguments, use.result) for use in first.tools] == [("double", {"number": 21}, "42")]
    assert said(second) == "42"
    assert [(s.agent, s.outcome) for s in structures(captured)] == [(("solver",), "returned")] * 2
    assert {call.captured_by for call in captured.calls} == {("adapter",)}


async def test_without_a_gateway_a_failed_call_is_on_record_with_its_error(tmp_path: Path) -> None:
    async def agent(task: str, url: str) -> None:
        with pytest.raises(Exception, match="scripted fault"):
            await model(url).ainvoke(task)

    captured = await run(tmp_path, lambda body, headers: Reply(status=400), agent, gateway=False)
    (call,) = captured.calls
    assert call.status == "error"
    assert "scripted fault" in (call.attempts[0].error or "")


async def test_a_tools_exception_without_words_reaches_the_agent_and_the_record(tmp_path: Path) -> None:
    class Wordless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    raised: list[Exception] = []

    @tool
    def look() -> str:
        """Look it up."""
        raise Wordless

    async def agent(_: str, url: str) -> str:
        graph = create_agent(model(url), [look], name="solver")
        try:
            await graph.ainvoke({"messages": [HumanMessage("go")]})
        except Wordless as error:
            raised.append(error)
        return "done"

    captured = await run(tmp_path, lambda body, headers: Reply(tool_calls=[("look", {})]), agent)
    assert [type(error) for error in raised] == [Wordless]
    ((use,),) = (call.tools for call in captured.calls)
    assert (use.name, use.error) == ("look", "Wordless: its text cannot be had, as its __str__ raised RuntimeError")


async def test_a_tool_is_on_record_with_what_it_was_given_not_with_what_it_made_of_it(tmp_path: Path) -> None:
    @tool
    def drain(items: list[int]) -> int:
        """Empty the list."""
        count = len(items)
        items.clear()
        return count

    def script(body: Any, headers: Any) -> Reply:
        asked = body["messages"][-1]["role"] == "user"
        return Reply(tool_calls=[("drain", {"items": [1, 2, 3]})]) if asked else Reply("3")

    async def agent(_: str, url: str) -> str:
        graph = create_agent(model(url), [drain], name="solver")
        return (await graph.ainvoke({"messages": [HumanMessage("go")]}))["messages"][-1].text

    captured = await run(tmp_path, script, agent)
    ((use,),) = (call.tools for call in captured.calls if call.tools)
    assert (use.name, use.arguments, use.result) == ("drain", {"items": [1, 2, 3]}, "3")
