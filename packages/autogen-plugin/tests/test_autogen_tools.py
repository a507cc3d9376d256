"""Tools, bare clients in them, and answers that fail."""

import asyncio
from typing import Any

import openai
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_agentchat.tools import AgentTool
from autogen_core.models import UserMessage
from pydantic import BaseModel

from leyden.adapters import install_adapters, uninstall_adapters
from leyden.runner.failures import judge
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Call


def asks(name: str, **arguments: Any) -> Reply:
    return Reply(tool_calls=[(name, arguments)])


def mine(call: Call) -> bool:
    return call.request is not None and call.request.messages[0]["content"] == "mine"


MINE: Any = [{"role": "user", "content": "mine"}]


async def test_parallel_tools_lie_under_the_call_that_asked_and_faults_are_told(calls_of: Any, model: Any) -> None:
    async def half(number: int) -> float:
        """Half the number."""
        if number % 2:
            raise ValueError(f"{number} is odd")
        return number / 2

    def run() -> Any:
        return AssistantAgent("solver", model(), tools=[half], reflect_on_tool_use=True).run(task="go")

    asked = Reply(tool_calls=[("half", {"number": 4}), ("half", {"number": 5}), ("third", {})])
    first, second = await calls_of([asked, Reply("done")], run)
    assert second.tools == ()
    told = {use.tool_call_id: (use.name, use.arguments, use.result, use.error) for use in first.tools}
    assert [told[asked["id"]] for asked in first.answer.choices[0].message["tool_calls"]] == [
        ("half", {"number": 4}, "2.0", None),
        ("half", {"number": 5}, None, "5 is odd"),
        ("third", {}, None, "Error: tool 'third' not found in any workbench"),
    ]


async def test_the_same_tool_call_id_in_two_answers_is_not_confused(calls_of: Any, model: Any) -> None:
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    def run() -> Any:
        return AssistantAgent("solver", model(), tools=[double], max_tool_iterations=3).run(task="go")

    calls = await calls_of([asks("double", number=1), asks("double", number=2), Reply("4")], run)
    assert [[use.result for use in call.tools] for call in calls] == [["2"], ["4"], []]


@pytest.mark.parametrize("sync", [True, False])
async def test_a_bare_client_in_a_tool_is_unstructured_and_below_the_call_that_asked(
    calls_of: Any, model: Any, sync: bool
) -> None:
    def look() -> str:
        """Look it up."""
        bare = openai.OpenAI(base_url="http://127.0.0.1:9", api_key="sk-x")
        return bare.chat.completions.create(model="m", messages=MINE).choices[0].message.content or ""

    async def alook() -> str:
        """Look it up."""
        async with openai.AsyncOpenAI(base_url="http://127.0.0.1:9", api_key="sk-x") as bare:
            return (await bare.chat.completions.create(model="m", messages=MINE)).choices[0].message.content or ""

    tool = look if sync else alook

    def run() -> Any:
        return AssistantAgent("solver", model(), tools=[tool], reflect_on_tool_use=True).run(task="go")

    asking, bare, last = await calls_of([asks(tool.__name__), Reply("found"), Reply("done")], run)
    assert mine(bare)
    assert bare.structure is not None
    assert (bare.structure.agent, bare.structure.parent) == ((), asking.id)
    assert bare.answer.choices[0].token_ids
    assert [(use.kind, use.result) for use in asking.tools] == [("function", "found")]
    assert last.structure.agent == ("solver",)


async def test_an_agent_that_a_sync_tool_runs_is_below_it(calls_of: Any, model: Any) -> None:
    async def expert() -> str:
        client = model()
        done = await AssistantAgent("expert", client).run(task="t")
        await client.close()
        return done.messages[-1].to_text()

    def ask() -> str:
        """Ask the expert."""
        return asyncio.run(expert())

    def run() -> Any:
        return AssistantAgent("solver", model(), tools=[ask], reflect_on_tool_use=True).run(task="go")

    asking, within, _ = await calls_of([asks("ask"), Reply("so"), Reply("done")], run)
    assert (within.structure.agent, within.structure.parent) == (("solver", "expert"), asking.id)
    assert [(use.kind, use.name, use.result) for use in asking.tools] == [("agent", "ask", "so")]


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_cannot_be_parsed_keeps_its_tokens(calls_of: Any, model: Any, stream: bool) -> None:
    class City(BaseModel):
        name: str

    async def run() -> None:
        agent = AssistantAgent("solver", model(), output_content_type=City, model_client_stream=stream)
        with pytest.raises(ValueError, match="expected ident" if stream else "City"):
            await agent.run(task="go")

    (call,) = await calls_of([Reply("no JSON at all")], run)
    # A stream is parsed as it comes: the client may leave before its end, and what was sampled until then is kept.
    assert call.status == "ok" or (stream and call.status == "cancelled")
    assert call.attempts[-1].choices[0].token_ids
    assert (call.structure.agent, call.structure.outcome) == (("solver",), "raised")


@pytest.mark.parametrize("nested", [False, True])
async def test_what_a_model_raises_within_a_team_can_be_told_from_an_agents_mistake(
    calls_of: Any, model: Any, nested: bool
) -> None:
    raised: list[BaseException] = []

    async def run() -> None:
        team = RoundRobinGroupChat([AssistantAgent("writer", model())], name="desk")
        with pytest.raises(RuntimeError, match="InternalServerError: Error code: 500") as caught:
            await (RoundRobinGroupChat([team]) if nested else team).run(task="go")
        raised.append(caught.value)

    (call,) = await calls_of([Reply(status=500)], run)
    assert (call.status, call.structure.outcome) == ("error", "raised")
    assert type(raised[0]) is RuntimeError
    assert judge(raised[0]).status == "lost"


async def test_a_cancelled_run_says_so(calls_of: Any, model: Any) -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(body: Any, headers: Any) -> Reply:
        loop.call_soon_threadsafe(begun.set)
        return Reply("late", delay=30.0)

    async def run() -> None:
        task = asyncio.create_task(AssistantAgent("solver", model()).run(task="go"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    (call,) = await calls_of(slow, run)
    assert (call.status, call.structure.outcome) == ("cancelled", "cancelled")


async def test_tracing_without_a_gateway_gives_the_readable_call(calls_of: Any, model: Any) -> None:
    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    with FakeServer([asks("double", number=2), Reply("4"), Reply(status=400)]) as own:

        async def run() -> None:
            client = model(base_url=own.url, temperature=0.5)
            agent = AssistantAgent("solver", client, tools=[double], reflect_on_tool_use=True)
            await agent.run(task="go")
            with pytest.raises(openai.BadRequestError):
                await agent.run(task="more")

        asking, told, failed = await calls_of([], run, mode="trace")
    assert asking.request.tools[0]["function"]["name"] == "double"
    assert asking.request.asked["temperature"] == 0.5
    (use,) = asking.tools
    assert asking.answer.choices[0].message["tool_calls"][0]["id"] == use.tool_call_id
    assert [m["role"] for m in told.request.messages] == ["system", "user", "assistant", "tool"]
    assert told.answer.choices[0].message == {"role": "assistant", "content": "4"}
    assert told.answer.choices[0].token_ids is None
    assert (failed.status, failed.structure.outcome) == ("error", "raised")
    assert {call.structure.agent for call in (asking, told, failed)} == {("solver",)}


def test_uninstalled_autogen_is_as_it_was() -> None:
    methods = ("run", "run_stream", "on_messages_stream", "_execute_tool_call")
    wrapped = [getattr(AssistantAgent, name) for name in methods]
    install_adapters()
    assert [getattr(AssistantAgent, name) for name in methods] == wrapped
    uninstall_adapters()
    original = [getattr(AssistantAgent, name) for name in methods]
    assert not set(original) & set(wrapped)
    assert {method.__module__.partition(".")[0] for method in original} == {"autogen_agentchat"}
    assert AgentTool.__module__.startswith("autogen_agentchat")


async def test_an_exception_without_words_that_leaves_a_models_stream_is_on_record(calls_of: Any, model: Any) -> None:
    class Wordless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    async def run() -> None:
        pieces = model().create_stream([UserMessage(content="go", source="user")])
        assert await anext(pieces)
        with pytest.raises(Wordless):
            await pieces.athrow(Wordless())

    (call,) = await calls_of([Reply("one two three")], run)
    assert call.structure.outcome == "raised"
    assert call.structure.error == "Wordless: its text cannot be had, as its __str__ raised RuntimeError"
