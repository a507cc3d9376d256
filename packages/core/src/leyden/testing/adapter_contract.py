"""What every adapter must do, as tests: subclass `AdapterContract`, write the agents of `AdapterAgents`, run pytest.

The agents run behind a real server, gateway and store, their adapter found by its entry point. As in langchain-tests, a
subclass may not weaken a test without saying why; here such a subclass cannot even be made.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from inspect import getattr_static
from pathlib import Path
from typing import Any, Self, cast

import pytest
from pydantic import JsonValue

from leyden.adapters import broken_adapters, installed_adapters
from leyden.capture import flush, install_capture, uninstall_capture
from leyden.recorder import recorder
from leyden.scope import Scope, enter_scope
from leyden.testing.adapter_agents import AGENTS, OPTIONAL, AdapterAgents, speaker, task_in, tool_user
from leyden.testing.capture_trial import PATIENCE_S, Agent, Captured, CaptureTrial, Script, nowhere
from leyden.testing.fake_server import Received, Reply
from leyden.testing.faulty_front import FaultyFront
from leyden.types import Call, Structure, ToolUse

__all__ = ["AdapterContract"]

SHORT_S = 0.05  # of a wait that is meant to end in vain
ROLLOUTS = 16  # as tasks, and as many in threads, at the same time
ROUNDS = 4  # times two kinds of ROLLOUTS, times four calls each: 512

FINISHING = ("single", "tool_agent", "streaming", "nested", "nested_in_thread", "parallel", "handoff", "client_in_tool")
"""Agents that return."""


class Contract(AdapterAgents):
    """Fixtures, and what the tests ask the captured calls."""

    @pytest.fixture(autouse=True)
    def capture(self) -> Iterator[None]:
        """Hooks on, all adapters by entry point."""
        install_capture(require_scope=True)
        assert self.adapter in installed_adapters(), broken_adapters()
        yield
        uninstall_capture()

    @pytest.fixture
    async def trial(self, tmp_path: Path) -> AsyncIterator[CaptureTrial]:
        """A policy that uses tools, behind a Leyden server."""
        async with CaptureTrial(tmp_path, tool_user) as trial:
            yield trial

    def agent(self, name: str) -> Agent:
        """The agent as a function of task and URL; skips the test if the framework has none."""
        if name in self.absent:
            pytest.skip(f"{self.adapter} has no {name}: {self.absent[name]}")
        if name == "streaming":
            return lambda task, url: self.streaming(task, url, lambda _: None)
        if name == "nested_in_thread":
            return lambda task, url: asyncio.to_thread(self.nested_in_thread, task, url)
        return getattr(self, name)

    async def complete(self, trial: CaptureTrial, name: str) -> Captured:
        """Run the agent to its end; its rollout may be trained on."""
        captured = await trial.captured(self.agent(name), name)
        if captured.error is not None:
            raise captured.error
        assert (captured.rollout.status, captured.rollout.incomplete) == ("succeeded", ())
        return captured


class Structures(Contract):
    """Who called, and what was done with the answer."""

    @pytest.mark.parametrize("name", FINISHING)
    async def test_each_model_request_is_one_call_in_the_order_of_the_requests(
        self, trial: CaptureTrial, name: str
    ) -> None:
        captured = await self.complete(trial, name)
        requested = [request.body["messages"] for request in captured.requests]
        recorded = [_messages(call) for call in captured.calls]
        if name == "parallel":  # whichever branch was first at the server
            requested, recorded = sorted(requested, key=json.dumps), sorted(recorded, key=json.dumps)
            assert sorted(captured.scope.call_ids) == sorted(call.id for call in captured.calls)
        else:
            assert captured.scope.call_ids == [call.id for call in captured.calls]
        assert recorded == requested
        assert all(len(call.attempts) == 1 for call in captured.calls)

    @pytest.mark.parametrize("name", [name for name in FINISHING if name != "client_in_tool"])
    async def test_each_call_names_the_agent_that_made_it_and_that_its_answer_was_taken(
        self, trial: CaptureTrial, name: str
    ) -> None:
        captured = await self.complete(trial, name)
        for call in captured.calls:
            assert _structure(call).agent[-1:] == (_speaker(call),)
            assert _structure(call).outcome == "returned"
            assert call.captured_by == ("adapter", "gateway")

    async def test_a_tool_use_lies_under_the_call_that_asked_for_it(self, trial: CaptureTrial) -> None:
        captured = await self.complete(trial, "tool_agent")
        first, second = captured.calls
        (use,) = first.tools
        assert (use.kind, use.name, use.arguments, use.error) == ("function", "double", {"number": 21}, None)
        assert str(use.result) == "42"
        assert use.tool_call_id == _asked(first)["double"]
        assert second.tools == ()
        assert [_structure(call).parent for call in captured.calls] == [None, None]

    @pytest.mark.parametrize("name", ["nested", "nested_in_thread"])
    async def test_a_sub_agent_is_below_its_agent_and_led_to_by_the_call_that_asked(
        self, trial: CaptureTrial, name: str
    ) -> None:
        captured = await self.complete(trial, name)
        first, asking, told, last = captured.calls
        paths = [("boss",), ("boss", "helper"), ("boss", "helper"), ("boss",)]
        assert [_structure(call).agent for call in captured.calls] == paths
        assert [_structure(call).parent for call in captured.calls] == [None, first.id, first.id, None]
        assert [_kinds(call) for call in captured.calls] == [{"helper": "agent"}, {"double": "function"}, {}, {}]
        assert (first.tools[0].tool_call_id, asking.tools[0].tool_call_id) == (
            _asked(first)["helper"],
            _asked(asking)["double"],
        )
        assert "helper is done" in str(first.tools[0].result)
        assert _said(told) == "helper is done"
        assert _said(last) == "boss is done"

    async def test_parallel_branches_are_told_apart(self, trial: CaptureTrial) -> None:
        captured = await self.complete(trial, "parallel")
        first = captured.calls[0]
        branches = {_structure(call).agent: call for call in captured.calls[1:-1]}
        assert sorted(branches) == [("boss", "left"), ("boss", "right")]
        assert all(_structure(call).parent == first.id for call in branches.values())
        assert _kinds(first) == {"left": "agent", "right": "agent"}
        for use in first.tools:
            assert use.tool_call_id == _asked(first)[use.name]
            assert f"{use.name} is done" in str(use.result)
        assert [_structure(call).agent for call in (first, captured.calls[-1])] == [("boss",), ("boss",)]

    async def test_a_handoff_leads_from_the_call_that_asked_to_the_other_agent(self, trial: CaptureTrial) -> None:
        captured = await self.complete(trial, "handoff")
        first, last = captured.calls
        assert [_structure(call).agent for call in captured.calls] == [("boss",), ("expert",)]
        assert [_structure(call).parent for call in captured.calls] == [None, first.id]
        (use,) = first.tools
        assert (use.kind, use.result) == ("handoff", "expert")
        assert use.tool_call_id in _asked(first).values()
        assert last.tools == ()

    async def test_a_bare_client_in_a_tool_is_captured_and_is_no_run_of_the_framework(
        self, trial: CaptureTrial
    ) -> None:
        captured = await self.complete(trial, "client_in_tool")
        first, bare, last = captured.calls
        assert [_speaker(call) for call in captured.calls] == ["solver", "bare", "solver"]
        assert _sampled(bare) is not None
        assert bare.structure is None or (bare.structure.run_id is None and bare.structure.parent in (None, first.id))
        assert _kinds(first) == {"look": "function"}
        assert last.tools == ()


class Answers(Contract):
    """Streams, failures, retries, cancellation."""

    async def test_a_stream_is_recorded_as_the_whole_answer_is(self, trial: CaptureTrial) -> None:
        heard: list[str] = []
        whole = await self.complete(trial, "tool_agent")
        streamed = await trial.captured(lambda _, url: self.streaming("tool_agent", url, heard.append), "streaming")
        assert (streamed.error, streamed.result) == (None, whole.result)
        assert [call.request.asked.get("stream") for call in streamed.calls if call.request] == [True, True]
        assert len([piece for piece in heard if piece]) > 1
        for one, other in zip(streamed.calls, whole.calls, strict=True):
            assert _sampled(one) == _sampled(other)
            assert _messages(one) == _messages(other)
            assert _timeless(_structure(one)) == _timeless(_structure(other))
            assert [_told(use) for use in one.tools] == [_told(use) for use in other.tools]

    async def test_a_failed_call_is_recorded_and_the_agent_gets_its_own_exception(self, trial: CaptureTrial) -> None:
        error = {"message": "no such thing", "type": "invalid_request_error", "param": None, "code": None}
        trial.script = _in_turn([Reply(status=400, error=error)])
        _, expected, _ = await trial.plain(self.agent("single"), "failed")
        captured = await trial.captured(self.agent("single"), "failed")
        assert expected is not None
        assert (type(captured.error), str(captured.error)) == (type(expected), str(expected))
        (call,) = captured.calls
        assert (call.status, [attempt.http_status for attempt in call.attempts]) == ("error", [400])
        assert (_structure(call).agent, _structure(call).outcome) == (("solver",), "raised")
        assert (captured.rollout.status, captured.rollout.incomplete) == ("failed", ())

    async def test_a_retried_call_is_one_call_with_both_attempts(self, trial: CaptureTrial) -> None:
        replies = [Reply(status=500, headers={"retry-after-ms": "1"}), Reply("solver is done")]
        trial.script = _in_turn(replies)
        captured = await self.complete(trial, "single")
        (call,) = captured.calls
        assert [(attempt.number, attempt.status) for attempt in call.attempts] == [(0, "error"), (1, "ok")]
        assert _structure(call).outcome == "returned"

    async def test_a_cancelled_stream_keeps_what_had_been_sampled(self, trial: CaptureTrial) -> None:
        never = threading.Event()
        trial.script = _in_turn([Reply("one two three four", delay=never, delay_after=3)])
        running: list[asyncio.Task[JsonValue]] = []

        def heard(piece: str) -> None:
            if piece:
                running[0].cancel()

        async def agent(task: str, url: str) -> JsonValue:
            running.append(asyncio.ensure_future(self.streaming(task, url, heard)))
            return await running[0]

        captured = await trial.captured(agent, "cancelled")
        assert isinstance(captured.error, asyncio.CancelledError)
        (call,) = captured.calls
        assert call.status == "cancelled"
        assert _structure(call).agent == ("solver",)
        assert _structure(call).outcome in (None, "cancelled")
        assert 1 <= len(call.attempts[0].choices[0].token_ids or ()) < 5

    async def test_an_answer_that_cannot_be_parsed_keeps_its_tokens(self, trial: CaptureTrial) -> None:
        trial.script = _in_turn([Reply("no JSON at all")])
        _, expected, _ = await trial.plain(self.agent("parse_failure"), "unparsed")
        captured = await trial.captured(self.agent("parse_failure"), "unparsed")
        assert expected is not None
        assert (type(captured.error), str(captured.error)) == (type(expected), str(expected))
        (call,) = captured.calls
        assert _said(call) == "no JSON at all"
        assert _sampled(call) is not None
        assert _structure(call).agent == ("solver",)
        assert (captured.rollout.status, captured.rollout.incomplete) == ("failed", ())


class Transparency(Contract):
    """What the agent sees of it: nothing."""

    @pytest.mark.parametrize("name", FINISHING)
    async def test_with_hooks_and_without_the_agents_result_is_the_same_byte_for_byte(
        self, trial: CaptureTrial, name: str
    ) -> None:
        result, error, requests = await trial.plain(self.agent(name), name)
        captured = await self.complete(trial, name)
        assert error is None
        assert json.dumps(captured.result) == json.dumps(result)
        assert sorted(map(_asked_for, captured.requests)) == sorted(map(_asked_for, requests))

    async def test_rollouts_at_the_same_time_never_mix(self, trial: CaptureTrial) -> None:
        loop = asyncio.get_running_loop()
        misplaced: list[str] = []
        total, url = 0, nowhere()

        def in_thread(scope: Scope, task: str) -> JsonValue:
            with enter_scope(scope):
                return self.nested_in_thread(task, url)

        async def threaded(pool: ThreadPoolExecutor, task: str) -> Captured:
            scope = await trial.claimed(task)
            result = await loop.run_in_executor(pool, in_thread, scope, task)
            return await trial.finished(scope, result, None)

        with ThreadPoolExecutor(ROLLOUTS) as pool:
            for number in range(ROUNDS):
                tasks = [f"task-{number}-{n}" for n in range(ROLLOUTS)]
                in_threads = [f"thread-{task}" for task in tasks]
                with _AllAtOnce(2 * ROLLOUTS) as script:
                    trial.script = script
                    runs = [trial.captured(self.nested, task, url=url) for task in tasks]
                    threads = [threaded(pool, task) for task in in_threads]
                    ended = await asyncio.gather(*runs, *threads)
                assert {*tasks, *in_threads} - script.here == set(), "they never asked the model"
                for captured in ended:
                    assert (captured.error, captured.rollout.incomplete) == (None, ())
                    total += len(captured.calls)
                    misplaced += _misplaced(captured)
        assert (total, misplaced) == (ROUNDS * 2 * ROLLOUTS * 4, [])

    async def test_installing_twice_is_once_and_uninstalling_ends_it(self, trial: CaptureTrial) -> None:
        once = await self.complete(trial, "tool_agent")
        install_capture(require_scope=True)
        again = await trial.captured(self.agent("tool_agent"), "twice")
        assert [len(call.attempts) for call in again.calls] == [1, 1]
        assert [[use.name for use in call.tools] for call in again.calls] == [["double"], []]
        uninstall_capture()
        scope = await trial.claimed("uninstalled")
        with enter_scope(scope):
            assert await self.agent("tool_agent")("tool_agent", trial.policy.url) == once.result  # type: ignore[misc]
        assert (scope.call_ids, scope.losses) == ([], [])
        assert await trial.store.calls(["uninstalled"]) == []

    @pytest.mark.parametrize("trouble", ["fails", "is slow", "is full"])
    async def test_when_recording_is_in_trouble_the_agent_is_unaffected_and_its_rollout_incomplete(
        self, trial: CaptureTrial, trouble: str
    ) -> None:
        expected = (await self.complete(trial, "tool_agent")).result
        front = FaultyFront(trial.server.url, held=trouble != "fails")
        with front.serve() as url:
            filler = Scope("filler", 1, url, "none")
            if trouble == "is full":
                _fill(filler, front)
            captured = await trial.captured(
                lambda _, model_url: self.tool_agent("tool_agent", model_url),
                trouble,
                server_url=url,
                flush_s=SHORT_S if trouble != "fails" else 60.0,
            )
            front.release()
            await asyncio.to_thread(flush, filler, timeout_s=60.0)
        assert (captured.error, captured.result) == (None, expected)
        assert captured.rollout.status == "incomplete"
        words = {"fails": "500", "is slow": "longer than", "is full": "is full"}
        assert any(words[trouble] in reason for reason in captured.rollout.incomplete)
        assert all(_sampled(call) is not None for call in captured.calls)


class AdapterContract(Structures, Answers, Transparency):
    """All of it. A subclass gives `adapter`, the agents, and `absent` for what its framework does not have."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        problems = _weakened(cls)
        if problems:
            raise TypeError(f"{cls.__name__} weakens the contract: {'; '.join(problems)}")


def _weakened(cls: type[AdapterContract]) -> list[str]:
    """Why the subclass tests less than the contract, or says less of itself than it must."""
    problems = [
        f"{name} is overridden; if it must be, mark it pytest.mark.xfail(reason=…, strict=True)"
        for name in dir(AdapterContract)
        if not (name.startswith("__") or name in AGENTS or name in ("adapter", "absent"))
        and getattr_static(cls, name, None) is not getattr_static(AdapterContract, name)
        and not _has_reason(getattr_static(cls, name, None))
    ]
    for name in AGENTS:
        written = getattr_static(cls, name) is not getattr_static(AdapterAgents, name)
        if name not in cls.absent and not written:
            problems.append(f"the agent {name} is neither written nor declared absent")
        if name in cls.absent and (written or name not in OPTIONAL or not cls.absent[name].strip()):
            problems.append(
                f"{name} is declared absent; that needs a reason, no agent of the name, and one of {OPTIONAL}"
            )
    unknown = sorted(set(cls.absent) - set(AGENTS))
    return problems + [f"absent names {unknown}, which are no agents"] * bool(unknown)


def _has_reason(test: Any) -> bool:
    marks = getattr(test, "pytestmark", [])
    return any(mark.name == "xfail" and mark.kwargs.get("reason") and mark.kwargs.get("strict") for mark in marks)


def _structure(call: Call) -> Structure:
    assert call.structure is not None, f"call {call.id} by {_speaker(call)} has no structure"
    return call.structure


def _messages(call: Call) -> list[dict[str, JsonValue]]:
    return list(call.request.messages) if call.request else []


def _speaker(call: Call) -> str:
    return speaker(_messages(call))


def _said(call: Call) -> JsonValue:
    return call.answer.choices[0].message["content"] if call.answer else None


def _sampled(call: Call) -> tuple[Any, ...] | None:
    """The exact tokens of the answer; None if anything of them lacks."""
    if call.answer is None or not call.answer.prompt_token_ids or not call.answer.choices[0].token_ids:
        return None
    return call.answer.prompt_token_ids, call.answer.choices[0].token_ids, call.answer.choices[0].logprobs


def _asked(call: Call) -> dict[str, str]:
    """Name → id of the tool calls in the answer."""
    asked = cast("list[dict[str, Any]]", call.answer.choices[0].message["tool_calls"]) if call.answer else []
    return {tool["function"]["name"]: tool["id"] for tool in asked}


def _kinds(call: Call) -> dict[str, str]:
    return {use.name: use.kind for use in call.tools}


def _timeless(structure: Structure) -> tuple[Any, ...]:
    return structure.framework, structure.agent, structure.node, structure.step, structure.parent, structure.outcome


def _told(use: ToolUse) -> tuple[Any, ...]:
    return use.kind, use.tool_call_id, use.name, use.arguments, use.result, use.error


def _asked_for(request: Received) -> str:
    """The fields of a request that the gateway does not set."""
    return json.dumps({name: request.body.get(name) for name in ("messages", "tools", "stream")}, sort_keys=True)


def _in_turn(replies: list[Reply]) -> Script:
    """These replies, the last one again and again."""

    def script(_body: dict[str, Any], _headers: Mapping[str, str]) -> Reply:
        return replies.pop(0) if len(replies) > 1 else replies[0]

    return script


class _AllAtOnce:
    """The tool user, whose first answer to each rollout waits until so many are under way, or `PATIENCE_S` seconds."""

    def __init__(self, rollouts: int) -> None:
        self.here: set[str] = set()
        self._rollouts = rollouts
        self._go_on = threading.Event()
        self._patience = threading.Timer(PATIENCE_S, self._go_on.set)
        self._patience.daemon = True

    def __enter__(self) -> Self:
        self._patience.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patience.cancel()

    def __call__(self, body: dict[str, Any], headers: Mapping[str, str]) -> Reply:
        reply = tool_user(body, headers)
        self.here.add(task_in(body["messages"]))
        if len(self.here) >= self._rollouts:
            self._go_on.set()
        return Reply(reply.text, reply.tool_calls, delay=self._go_on)


def _misplaced(captured: Captured) -> list[str]:
    """Calls of a nested run that belong elsewhere, or say so."""
    task = captured.rollout.id
    own = {call.id for call in captured.calls}
    wrong = [call for call in captured.calls if task_in(_messages(call)) != task]
    wrong += [call for call in captured.calls if _structure(call).agent[-1:] != (_speaker(call),)]
    wrong += [call for call in captured.calls if _structure(call).parent not in (None, *own)]
    wrong += [call for call in captured.calls if len(call.tools) != len(_asked_if_any(call))]
    return [f"call {call.id} of {task}" for call in wrong]


def _asked_if_any(call: Call) -> dict[str, str]:
    return _asked(call) if call.answer and call.answer.choices[0].message.get("tool_calls") else {}


def _fill(filler: Scope, front: FaultyFront) -> None:
    """Fill the recorder's queue while its thread is held at the front."""
    record = Call(id="filler", rollout_id="filler", captured_by=("adapter",))
    recorder.record(filler, record)
    front.wait_record()
    while not filler.losses:
        recorder.record(filler, record)
