"""Frameworks without an adapter that run on openai 3, by `make test-frameworks` in an environment of their own."""

from typing import Any

import pytest

from leyden.testing.fake_server import Reply

pytest.importorskip("pydantic_ai", reason="not in this environment: make test-frameworks")
pytest.importorskip("smolagents", reason="not in this environment: make test-frameworks")

TOOL = Reply(tool_calls=[("double", {"number": 21})])


def test_pydantic_ai_with_a_tool_is_trainable_and_unstructured(trained_calls: Any) -> None:
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    def agent(url: str) -> str:
        model = OpenAIChatModel("m", provider=OpenAIProvider(base_url=url, api_key="sk-x"))
        solver = Agent(model, system_prompt="You are solver.")

        @solver.tool_plain
        def double(number: int) -> int:
            """Twice the number."""
            return 2 * number

        return solver.run_sync("2 x 21?").output

    calls, said = trained_calls([TOOL, Reply("42")], agent)
    assert said == "42"
    assert [message["content"] for message in calls[1].request.messages if message["role"] == "tool"] == ["42"]


def test_smolagents_with_a_tool_is_trainable_and_unstructured(trained_calls: Any) -> None:
    from smolagents import OpenAIServerModel, ToolCallingAgent, tool

    @tool
    def double(number: int) -> int:
        """Twice the number.

        Args:
            number: what to double
        """
        return 2 * number

    def agent(url: str) -> str:
        model = OpenAIServerModel("m", api_base=url, api_key="sk-x")
        return str(ToolCallingAgent([double], model, verbosity_level=0).run("2 x 21?"))

    final = Reply(tool_calls=[("final_answer", {"answer": "42"})])
    calls, said = trained_calls([TOOL, final], agent)
    assert said == "42"
    assert "42" in str(calls[1].request.messages[-1]["content"])
