"""What is put around AutoGen's methods. Each passes arguments, results and exceptions on as they are.

A fault in the noting itself is logged and makes the rollout incomplete; the agent does not see it.
"""

import asyncio
import functools
import importlib.util
import json
import logging
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import aclosing, contextmanager
from typing import Any

from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.teams import BaseGroupChat
from autogen_core import MessageHandlerContext

from leyden.exception_text import exception_text
from leyden.recorder import recorder
from leyden.scope import Scope, current_scope
from leyden.types import ToolUse
from leyden_autogen.frames import Frame, agent_frame, current_frame, enter, inside
from leyden_autogen.handoffs import handed_off
from leyden_autogen.runs import Run, current_run, model_failures, partial_call
from leyden_autogen.wording import request_of

__all__ = ["wrapped_methods"]

_log = logging.getLogger("leyden")

Wrapper = Callable[[Any], Any]


def wrapped_methods() -> list[tuple[type, str, Wrapper]]:
    """Class, name and wrapper of each method; the model client's only if `autogen_ext` can talk to OpenAI here."""
    methods: list[tuple[type, str, Wrapper]] = [
        (MessageHandlerContext, "populate_context", _populate_context),
        (BaseChatAgent, "run", _run),
        (BaseChatAgent, "run_stream", _stream),
        (AssistantAgent, "on_messages_stream", _stream),
        (AssistantAgent, "_execute_tool_call", _execute_tool_call),
        (BaseGroupChat, "run_stream", _team_stream),
    ]
    if importlib.util.find_spec("autogen_ext") and importlib.util.find_spec("openai"):
        from autogen_ext.models.openai import BaseOpenAIChatCompletionClient

        methods += [
            (BaseOpenAIChatCompletionClient, "create", _create),
            (BaseOpenAIChatCompletionClient, "create_stream", _create_stream),
        ]
    return methods


@contextmanager
def _guarded(scope: Scope | None) -> Generator[None]:
    try:
        yield
    except Exception as error:  # the capture boundary
        _log.exception("the AutoGen adapter failed")
        if scope is not None:
            scope.losses.append(f"the AutoGen adapter failed: {exception_text(error)}")


def _populate_context(original: Any) -> Any:
    """The runtime delivers a message to an agent of its own: a participant or manager of a team, or a core agent."""

    @contextmanager
    def populate_context(cls: Any, ctx: Any) -> Generator[None]:
        # A team gives its members the types "name_TEAM" and the key "TEAM".
        name = ctx.type.removesuffix(f"_{ctx.key}")
        frame = Frame(name, "member", current_frame.get(), team=ctx.key if name != ctx.type else None)
        with enter(frame), original.__get__(None, cls)(ctx):
            yield

    return classmethod(populate_context)


def _run(original: Any) -> Any:
    @functools.wraps(original)
    async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        with enter(agent_frame(self.name)):
            return await original(self, *args, **kwargs)

    return run


def _stream(original: Any) -> Any:
    @functools.wraps(original)
    async def stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        frame = agent_frame(self.name)
        if isinstance(self, AssistantAgent):
            with _guarded(current_scope()):
                frame.handoffs = {name: handoff.target for name, handoff in getattr(self, "_handoffs", {}).items()}
        async with aclosing(inside(current_frame, frame, original(self, *args, **kwargs))) as items:
            async for item in items:
                yield item

    return stream


def _team_stream(original: Any) -> Any:
    """A team raises RuntimeError(text) for whatever was raised within: what a model raised becomes its context again.

    Else nobody could tell a dead server from an agent's mistake, and the rollout would be trained on as a failure.
    """

    @functools.wraps(original)
    async def run_stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        failures: list[BaseException] = []
        try:
            async with aclosing(inside(model_failures, failures, original(self, *args, **kwargs))) as items:
                async for item in items:
                    yield item
        except RuntimeError as error:
            text = exception_text(error).removeprefix(f"{type(error).__name__}: ")
            told = [one for one in failures if text.startswith(exception_text(one))]
            if told and error.__cause__ is None and error.__context__ is None:
                error.__context__ = told[-1]
            around = model_failures.get()
            if around is not None:
                around.append(error)
            raise

    return run_stream


def _execute_tool_call(original: Any) -> Any:
    @functools.wraps(original)
    async def execute(tool_call: Any, *args: Any, **kwargs: Any) -> Any:
        agent, scope, started_at = current_frame.get(), current_scope(), time.time()
        asker = agent.asked.get(tool_call.id) if agent is not None else None
        frame = Frame(tool_call.name, "tool", agent, asker=asker)
        try:
            with enter(frame):
                done = await original(tool_call, *args, **kwargs)
        except BaseException as error:
            with _guarded(scope):
                _record(scope, frame, tool_call, started_at, error=exception_text(error))
            raise
        with _guarded(scope):
            result = done[1]
            told = {"error": result.content} if result.is_error else {"result": result.content}
            _record(scope, frame, tool_call, started_at, **told)
        return done

    return staticmethod(execute)


def _record(scope: Scope | None, frame: Frame, tool_call: Any, started_at: float, **told: Any) -> None:
    """The tool's use, under the call that asked for it."""
    agent, asker = frame.above, frame.asker
    if scope is None or agent is None or asker is None:
        return
    target = agent.handoffs.get(tool_call.name)
    if target is not None and "result" in told:
        told["result"] = target
        if agent.member is not None:
            handed_off(agent.member, target, asker, scope)
    use = ToolUse(
        kind="handoff" if target is not None else "agent" if frame.ran_agent else "function",
        tool_call_id=tool_call.id,
        name=tool_call.name,
        arguments=_arguments(tool_call.arguments),
        started_at=started_at,
        finished_at=time.time(),
        **told,
    )
    recorder.record(scope, partial_call(asker, scope, started_at, tools=(use,)))


def _arguments(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # what the model wrote is no JSON: as it is


def _create(original: Any) -> Any:
    @functools.wraps(original)
    async def create(self: Any, messages: Any, *args: Any, **kwargs: Any) -> Any:
        run = _model_run(self, messages, kwargs)
        token = current_run.set(run)
        try:
            result = await original(self, messages, *args, **kwargs)
        except BaseException as error:
            with _guarded(run.scope):
                run.failed(error)
            raise
        finally:
            current_run.reset(token)
        with _guarded(run.scope):
            run.returned(result)
        return result

    return create


def _create_stream(original: Any) -> Any:
    @functools.wraps(original)
    async def create_stream(self: Any, messages: Any, *args: Any, **kwargs: Any) -> Any:
        run = _model_run(self, messages, kwargs)
        item: Any = None
        try:
            async with aclosing(inside(current_run, run, original(self, messages, *args, **kwargs))) as items:
                async for item in items:
                    if not isinstance(item, str):  # the whole answer, last
                        with _guarded(run.scope):
                            run.returned(item)
                    yield item
        except BaseException as error:
            with _guarded(run.scope):
                run.failed(error)
                await _close_response(error)
            raise

    return create_stream


async def _close_response(error: BaseException) -> None:
    """AutoGen leaves the response of a cancelled stream to the garbage collector; until then the server samples on."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        stream: Any = frame.f_locals.get("stream")
        if isinstance(error, asyncio.CancelledError) and type(stream).__module__.partition(".")[0] == "openai":
            await stream.close()


def _model_run(client: Any, messages: Any, more: dict[str, Any]) -> Run:
    scope = current_scope()
    request = None
    if scope is not None and not scope.gateway:
        with _guarded(scope):
            asked = {**getattr(client, "_create_args", {}), **more.get("extra_create_args", {})}
            request = request_of(messages, more.get("tools", ()), asked)
    return Run(current_frame.get(), request)
