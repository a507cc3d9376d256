"""The logging handler that is registered by hand: readable calls without a gateway, and nothing twice."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_core import EVENT_LOGGER_NAME

from leyden.adapters import uninstall_adapters
from leyden.testing.fake_server import FakeServer, Reply
from leyden_autogen import LeydenHandler


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    logger = logging.getLogger(EVENT_LOGGER_NAME)
    before, handler = logger.level, LeydenHandler()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    logger.setLevel(before)


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


@pytest.mark.parametrize("stream", [True, False])
async def test_by_hand_a_call_is_readable(calls_of: Any, model: Any, stream: bool) -> None:
    uninstall_adapters()
    with FakeServer([Reply(tool_calls=[("double", {"number": 2})]), Reply("4")]) as own:

        async def run() -> None:
            client = model(base_url=own.url)
            member = AssistantAgent(
                "solver", client, tools=[double], reflect_on_tool_use=True, model_client_stream=stream
            )
            await RoundRobinGroupChat([member], max_turns=1).run(task="go")

        asking, told = await calls_of([], run, mode="trace")
    assert [call.structure.agent for call in (asking, told)] == [("solver",)] * 2
    (use,) = asking.tools
    assert (use.name, use.arguments, use.result) == ("double", {"number": 2}, "4")
    assert use.tool_call_id == asking.answer.choices[0].message["tool_calls"][0]["id"]
    assert [m["role"] for m in told.request.messages] == ["system", "user", "assistant", "tool"]
    assert told.answer.choices[0].message["content"] == "4"
    assert told.tools == ()


@pytest.mark.parametrize("mode", ["train", "trace"])
async def test_with_the_adapter_or_a_gateway_the_handler_adds_nothing(calls_of: Any, model: Any, mode: str) -> None:
    with FakeServer([Reply(tool_calls=[("double", {"number": 2})]), Reply("4")]) as own:

        def run() -> Any:
            agent = AssistantAgent("solver", model(base_url=own.url), tools=[double], reflect_on_tool_use=True)
            return agent.run(task="go")

        replies = [Reply(tool_calls=[("double", {"number": 2})]), Reply("4")]
        calls = await calls_of(replies, run, mode=mode)
    assert [len(call.tools) for call in calls] == [1, 0]
