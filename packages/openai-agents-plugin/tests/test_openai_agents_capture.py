"""What is this SDK's own: guardrails, handoffs, approval, sessions, both of its APIs, and tracing left as it was."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    SQLiteSession,
    add_trace_processor,
    function_tool,
    input_guardrail,
    output_guardrail,
    set_trace_processors,
    set_tracing_disabled,
)
from agents.tracing import TracingProcessor, agent_span, generation_span, get_trace_provider, set_trace_provider
from agents.tracing.processors import BackendSpanExporter
from agents.tracing.provider import DefaultTraceProvider

from leyden.capture import flush, install_capture, uninstall_capture
from leyden.client import HttpStore
from leyden.keys import STAND_IN_KEY
from leyden.scope import Scope, enter_scope
from leyden.server.serve import BackgroundServer
from leyden.testing.capture_trial import Captured, CaptureTrial
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Call, Endpoint, Rollout
from leyden_openai_agents import LeydenTraceProcessor

MODELS: dict[str, Any] = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}
Build = Callable[..., Agent[Any]]


@pytest.fixture(autouse=True)
def no_exporter() -> Iterator[None]:
    """As a user does who wants nothing sent to OpenAI."""
    set_trace_processors([])
    yield
    set_trace_processors([])


@pytest.fixture
def captured() -> Iterator[None]:
    install_capture(require_scope=True)
    yield
    uninstall_capture()


@pytest.fixture
async def trial(tmp_path: Path, captured: None) -> AsyncIterator[CaptureTrial]:
    async with CaptureTrial(tmp_path, lambda body, headers: Reply("said")) as trial:
        yield trial


def builder(url: str, api: str = "chat", key: str = "sk-x") -> Build:
    """Makes agents that use the one or the other API of the model at this URL."""

    def build(name: str, **more: Any) -> Agent[Any]:
        client = openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0)
        return Agent(name=name, instructions=f"You are {name}.", model=MODELS[api]("m", client), **more)

    return build


async def run(trial: CaptureTrial, replies: list[Reply], agent: Callable[[Build], Any], api: str = "chat") -> Captured:
    answers = iter(replies)
    trial.script = lambda body, headers: next(answers)
    captured = await trial.captured(lambda _, url: agent(builder(url, api)), "a")
    if captured.error is not None:
        raise captured.error
    assert (captured.rollout.status, captured.rollout.incomplete) == ("succeeded", ())
    assert all(call.captured_by == ("adapter", "gateway") for call in captured.calls)
    assert all(call.answer is not None and call.answer.choices[0].token_ids for call in captured.calls)
    return captured


def told(call: Call) -> tuple[Any, ...]:
    assert call.structure is not None
    assert call.structure.framework == "openai-agents"
    return call.structure.agent, call.structure.step, call.structure.parent


def asked_ids(call: Call) -> list[str]:
    assert call.answer is not None
    return [use["id"] for use in call.answer.choices[0].message["tool_calls"]]  # type: ignore[index, union-attr, call-overload]


@function_tool
def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


@function_tool
def broken(number: int) -> int:
    """Never works."""
    raise ValueError(f"no {number}")


@function_tool(needs_approval=True)
def risky(number: int) -> int:
    """Only if the user says so."""
    return number


@pytest.mark.parametrize("api", MODELS)
async def test_equal_tool_calls_in_one_answer_are_told_apart_and_a_failing_one_keeps_its_exception(
    trial: CaptureTrial, api: str
) -> None:
    asked = [("double", {"number": 1}), ("broken", {"number": 2}), ("double", {"number": 1})]

    async def agent(build: Build) -> Any:
        return (await Runner.run(build("solver", tools=[double, broken]), "go")).final_output

    first, second = (await run(trial, [Reply(tool_calls=asked), Reply("done")], agent, api)).calls
    assert sorted(str(use.tool_call_id) for use in first.tools) == sorted(asked_ids(first))
    uses = {use.tool_call_id: use for use in first.tools}
    one, failed, other = (uses[name] for name in asked_ids(first))
    assert [(use.name, use.arguments, use.result, use.error) for use in (one, other)] == [
        ("double", {"number": 1}, 2, None)
    ] * 2
    assert (failed.arguments, failed.error) == ({"number": 2}, "ValueError: no 2")
    assert [told(call) for call in (first, second)] == [(("solver",), 1, None), (("solver",), 2, None)]


@pytest.mark.parametrize("config", [RunConfig(), RunConfig(tracing={"include_task_and_turn_spans": False})])
@pytest.mark.parametrize("api", MODELS)
async def test_only_the_first_call_after_a_handoff_was_led_to_by_it(
    trial: CaptureTrial, api: str, config: RunConfig
) -> None:
    async def agent(build: Build) -> Any:
        boss = build("boss", handoffs=[build("expert", tools=[double])])
        session = SQLiteSession("a")
        await Runner.run(boss, "go", session=session, run_config=config)
        return (await Runner.run(boss, "again", session=session, run_config=config)).final_output

    replies = [
        Reply(tool_calls=[("transfer_to_expert", {})]),
        Reply(tool_calls=[("double", {"number": 2})]),
        Reply("four"),
        Reply("bye"),
    ]
    asking, first, second, again = (await run(trial, replies, agent, api)).calls
    assert [told(call)[0] for call in (asking, first, second, again)] == [
        ("boss",),
        ("expert",),
        ("expert",),
        ("boss",),
    ]
    assert [told(call)[2] for call in (asking, first, second, again)] == [None, asking.id, None, None]
    (use,) = asking.tools
    assert (use.kind, use.name, use.result, [use.tool_call_id]) == (
        "handoff",
        "transfer_to_expert",
        "expert",
        asked_ids(asking),
    )


@pytest.mark.parametrize("api", MODELS)
async def test_a_sub_agent_that_hands_off_keeps_its_place_below_the_boss(trial: CaptureTrial, api: str) -> None:
    async def agent(build: Build) -> Any:
        sub = build("sub", handoffs=[build("expert")])
        return (await Runner.run(build("boss", tools=[sub.as_tool("ask_sub", "Ask.")]), "go")).final_output

    replies = [
        Reply(tool_calls=[("ask_sub", {"input": "what?"})]),
        Reply(tool_calls=[("transfer_to_expert", {})]),
        Reply("the expert says"),
        Reply("bye"),
    ]
    asking, sub, expert, last = (await run(trial, replies, agent, api)).calls
    assert [told(call)[0] for call in (asking, sub, expert, last)] == [
        ("boss",),
        ("boss", "sub"),
        ("boss", "expert"),
        ("boss",),
    ]
    assert [told(call)[2] for call in (asking, sub, expert, last)] == [None, asking.id, sub.id, None]
    assert [(use.kind, use.name, use.result) for use in asking.tools] == [("agent", "ask_sub", "the expert says")]


async def test_the_calls_of_a_guardrail_are_below_the_agent_that_it_guards(trial: CaptureTrial) -> None:
    async def agent(build: Build) -> Any:
        async def passes(text: Any) -> GuardrailFunctionOutput:
            said = (await Runner.run(build("checker"), str(text))).final_output
            return GuardrailFunctionOutput(output_info=said, tripwire_triggered=False)

        @input_guardrail(run_in_parallel=False)
        async def is_polite(context: Any, agent: Any, asked: Any) -> GuardrailFunctionOutput:
            return await passes(asked)

        @output_guardrail
        async def is_true(context: Any, agent: Any, answer: Any) -> GuardrailFunctionOutput:
            return await passes(answer)

        boss = build("boss", input_guardrails=[is_polite], output_guardrails=[is_true])
        return (await Runner.run(boss, "go")).final_output

    before, call, after = (await run(trial, [Reply("yes"), Reply("said"), Reply("yes")], agent)).calls
    assert [told(one)[0] for one in (before, call, after)] == [("boss", "checker"), ("boss",), ("boss", "checker")]
    assert [one.structure.node for one in (before, call, after) if one.structure] == ["is_polite", None, "is_true"]


async def test_a_tool_that_waited_for_approval_is_recorded_once_under_the_call_that_asked(trial: CaptureTrial) -> None:
    async def agent(build: Build) -> Any:
        boss = build("boss", tools=[risky])
        state = (await Runner.run(boss, "go")).to_state()
        (item,) = state.get_interruptions()
        state.approve(item)
        return (await Runner.run(boss, state)).final_output

    first, last = (await run(trial, [Reply(tool_calls=[("risky", {"number": 7})]), Reply("ok")], agent)).calls
    assert [(use.name, use.result, [use.tool_call_id]) for use in first.tools] == [("risky", 7, asked_ids(first))]
    assert last.tools == ()


@pytest.fixture(params=["for the run", "by code", "by environment"])
def config(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunConfig]:
    """Tracing off, in each of the SDK's ways; the settings of a run that go with it."""
    before = get_trace_provider()
    if request.param == "by code":
        set_tracing_disabled(True)
    if request.param == "by environment":
        monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
        set_trace_provider(DefaultTraceProvider())
    yield RunConfig(tracing_disabled=request.param == "for the run")
    set_trace_provider(before)
    set_tracing_disabled(False)


async def test_where_tracing_is_off_it_stays_off_and_nothing_lacks(trial: CaptureTrial, config: RunConfig) -> None:
    add_trace_processor(user := Seen())

    async def agent(build: Build) -> Any:
        helper = build("helper", tools=[double, broken]).as_tool("helper", "Ask.")
        boss = build("boss", tools=[helper], handoffs=[build("expert")])
        return (await Runner.run(boss, "go", run_config=config)).final_output

    replies = [
        Reply(tool_calls=[("helper", {"input": "what?"})]),
        Reply(tool_calls=[("double", {"number": 1}), ("broken", {"number": 2})]),
        Reply("two"),
        Reply(tool_calls=[("transfer_to_expert", {})]),
        Reply("bye"),
    ]
    calls = (await run(trial, replies, agent)).calls
    boss, helper, _, again, expert = calls
    assert [told(call) for call in calls] == [
        (("boss",), 1, None),
        (("boss", "helper"), 1, boss.id),
        (("boss", "helper"), 2, boss.id),
        (("boss",), 2, None),
        (("expert",), 3, again.id),
    ]
    assert [(use.kind, use.result) for use in boss.tools] == [("agent", "two")]
    assert sorted((use.name, use.error) for use in helper.tools) == [("broken", "ValueError: no 2"), ("double", None)]
    assert [(use.kind, use.result) for use in again.tools] == [("handoff", "expert")]
    assert expert.tools == ()
    assert user.kinds == []


class Seen(TracingProcessor):
    """A user's own processor."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def on_trace_start(self, trace: Any) -> None: ...

    def on_trace_end(self, trace: Any) -> None: ...

    def on_span_start(self, span: Any) -> None: ...

    def on_span_end(self, span: Any) -> None:
        self.kinds.append(span.span_data.type)

    def shutdown(self) -> None: ...

    def force_flush(self) -> None: ...


async def test_the_users_processors_see_what_they_saw_and_none_is_added(tmp_path: Path) -> None:
    async def agent(build: Build) -> Any:
        return (await Runner.run(build("solver", tools=[double]), "go")).final_output

    def replies() -> list[Reply]:
        return [Reply(tool_calls=[("double", {"number": 1})]), Reply("done")]

    plain, hooked = Seen(), Seen()
    set_trace_processors([plain])
    with FakeServer(replies()) as policy:
        assert await agent(builder(policy.url)) == "done"
    install_capture(require_scope=True)
    try:
        set_trace_processors([hooked])
        async with CaptureTrial(tmp_path, lambda body, headers: Reply("said")) as trial:
            first, _ = (await run(trial, replies(), agent)).calls
        assert [use.name for use in first.tools] == ["double"]
    finally:
        uninstall_capture()
    assert hooked.kinds == plain.kinds
    assert {"agent", "turn", "function", "generation"} <= set(plain.kinds)
    assert get_trace_provider()._multi_processor._processors == (hooked,)  # type: ignore[attr-defined]


def test_the_sdks_exporter_never_sends_with_a_key_that_is_leydens(
    captured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with enter_scope(Scope("a", 1, None, "the rollout's key")):
        for key, sent in ((STAND_IN_KEY, None), ("the rollout's key", None), ("sk-the-users", "sk-the-users")):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            assert BackendSpanExporter().api_key == sent
    assert BackendSpanExporter(api_key="sk-other").api_key == "sk-other"


async def traced(tmp_path: Path, agent: Callable[[Build], Any], api: str) -> list[Call]:
    """Run without a gateway of its own, at a model that serves both APIs (another rollout's gateway)."""
    with FakeServer(DOUBLES) as policy, BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="m"))
        await store.queue([Rollout(id="model", mode="trace"), Rollout(id="a", mode="trace")])
        model, mine = await store.claim("me", limit=2, lease_s=600)
        with enter_scope(Scope("a", 1, server.url, mine.key, gateway=False)) as scope:
            await agent(builder(f"{server.url}/v1", api, str(model.key)))
        await asyncio.to_thread(flush, scope, timeout_s=10)
        assert scope.losses == []
        calls = await store.calls(["a"])
        assert [call.id for call in calls] == scope.call_ids
        await store.close()
        return calls


async def doubles(build: Build, *, streamed: bool = False, config: RunConfig | None = None) -> None:
    agent = build("boss", handoffs=[build("expert", tools=[double])])
    if not streamed:
        await Runner.run(agent, "go", run_config=config)
        return
    async for _ in Runner.run_streamed(agent, "go", run_config=config).stream_events():
        pass


DOUBLES = [
    Reply(tool_calls=[("transfer_to_expert", {})]),
    Reply(tool_calls=[("double", {"number": 21})]),
    Reply("42"),
]


def check_doubles(calls: list[Call]) -> None:
    """The whole readable run."""
    asking, first, last = calls
    assert [told(call) for call in calls] == [(("boss",), 1, None), (("expert",), 2, asking.id), (("expert",), 3, None)]
    assert [call.structure.outcome for call in calls if call.structure] == ["returned"] * 3
    assert all(call.request is not None and call.request.asked["model"] == "m" for call in calls)
    assert first.request is not None
    assert first.request.messages[:2] == (
        {"role": "system", "content": "You are expert."},
        {"role": "user", "content": "go"},
    )
    assert last.answer is not None
    assert last.answer.choices[0].message["content"] == "42"
    assert [use["function"]["name"] for use in first.answer.choices[0].message["tool_calls"]] == ["double"]  # type: ignore[index, union-attr, call-overload]
    assert [(use.kind, use.result) for use in asking.tools] == [("handoff", "expert")]
    assert [(use.name, use.arguments, use.result) for use in first.tools] == [("double", {"number": 21}, 42)]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", MODELS)
async def test_a_processor_registered_by_hand_records_the_whole_readable_run(
    tmp_path: Path, api: str, streamed: bool
) -> None:
    add_trace_processor(LeydenTraceProcessor())
    check_doubles(await traced(tmp_path, lambda build: doubles(build, streamed=streamed), api))


@pytest.mark.parametrize("config", [RunConfig(), RunConfig(tracing_disabled=True)])
@pytest.mark.parametrize("api", MODELS)
async def test_found_by_entry_point_and_registered_by_hand_it_records_once_whether_tracing_is_on_or_off(
    tmp_path: Path, captured: None, api: str, config: RunConfig
) -> None:
    add_trace_processor(LeydenTraceProcessor())
    calls = await traced(tmp_path, lambda build: doubles(build, config=config), api)
    check_doubles(calls)
    assert calls[0].tools[0].tool_call_id == asked_ids(calls[0])[0]


def test_a_generator_that_is_closed_within_an_agents_span_is_no_loss() -> None:
    def stream() -> Iterator[int]:
        with agent_span("a"):
            yield 1

    with enter_scope(Scope("r", 0, server_url=None, key=None, gateway=False)) as scope:
        install_capture()
        items = stream()
        next(items)
        items.close()  # type: ignore[attr-defined]
        uninstall_capture()
    assert scope.losses == []


def test_an_exception_without_words_leaves_an_agents_span_as_it_is_and_is_no_loss() -> None:
    class Wordless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def agent() -> None:
        with agent_span("solver"), generation_span():
            raise Wordless

    install_capture()
    with enter_scope(Scope("a", 1, None, None)) as scope, pytest.raises(Wordless):
        agent()
    uninstall_capture()
    assert scope.losses == []
