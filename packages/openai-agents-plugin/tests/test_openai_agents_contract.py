"""The adapter of the OpenAI Agents SDK keeps the contract of all adapters, whichever way the user has tracing."""

from collections.abc import Callable
from typing import Any, ClassVar

import openai
import pytest
from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    set_trace_processors,
)
from agents.result import RunResultBase
from pydantic import BaseModel, JsonValue

from leyden.testing.adapter_contract import AdapterContract


def as_tool(agent: Agent[Any]) -> Any:
    return agent.as_tool(agent.name, f"Ask {agent.name}.")


def produced(result: RunResultBase) -> JsonValue:
    """All that a run said and did, but for ids that servers draw."""
    items: list[Any] = []
    for item in result.new_items:
        raw: Any = item.to_input_item()
        said = "".join(part["text"] for part in raw.get("content") or ())
        items.append([item.type, item.agent.name, said, *map(raw.get, ("name", "arguments", "output", "call_id"))])
    return [result.final_output, items, result.last_agent.name]


@function_tool
def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


class Agents:
    """The SDK's agents; the tests come with the contract."""

    adapter = "openai-agents"
    config = RunConfig()
    api: ClassVar[Any] = OpenAIChatCompletionsModel

    def an_agent(self, url: str, name: str, **more: Any) -> Agent[Any]:
        client = openai.AsyncOpenAI(base_url=url, api_key="sk-x", max_retries=1)
        return Agent(name=name, instructions=f"You are {name}.", model=self.api("m", client), **more)

    async def single(self, task: str, url: str) -> JsonValue:
        return produced(await Runner.run(self.an_agent(url, "solver"), task, run_config=self.config))

    async def tool_agent(self, task: str, url: str) -> JsonValue:
        return produced(await Runner.run(self.an_agent(url, "solver", tools=[double]), task, run_config=self.config))

    async def streaming(self, task: str, url: str, heard: Callable[[str], None]) -> JsonValue:
        result = Runner.run_streamed(self.an_agent(url, "solver", tools=[double]), task, run_config=self.config)
        async for event in result.stream_events():
            if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
                heard(event.data.delta)
        return produced(result)

    async def nested(self, task: str, url: str) -> JsonValue:
        helper = as_tool(self.an_agent(url, "helper", tools=[double]))
        return produced(await Runner.run(self.an_agent(url, "boss", tools=[helper]), task, run_config=self.config))

    def nested_in_thread(self, task: str, url: str) -> JsonValue:
        helper = as_tool(self.an_agent(url, "helper", tools=[double]))
        return produced(Runner.run_sync(self.an_agent(url, "boss", tools=[helper]), task, run_config=self.config))

    async def parallel(self, task: str, url: str) -> JsonValue:
        branches = [as_tool(self.an_agent(url, name)) for name in ("left", "right")]
        return produced(await Runner.run(self.an_agent(url, "boss", tools=branches), task, run_config=self.config))

    async def handoff(self, task: str, url: str) -> JsonValue:
        boss = self.an_agent(url, "boss", handoffs=[self.an_agent(url, "expert")])
        return produced(await Runner.run(boss, task, run_config=self.config))

    async def parse_failure(self, task: str, url: str) -> JsonValue:
        class City(BaseModel):
            name: str

        return produced(await Runner.run(self.an_agent(url, "solver", output_type=City), task, run_config=self.config))

    async def client_in_tool(self, task: str, url: str) -> JsonValue:
        @function_tool
        def look(text: str) -> str:
            """Look it up."""
            bare = openai.OpenAI(base_url=url, api_key="sk-x", max_retries=1)
            told: Any = [{"role": "system", "content": "You are bare."}, {"role": "user", "content": text}]
            return bare.chat.completions.create(model="m", messages=told).choices[0].message.content or ""

        return produced(await Runner.run(self.an_agent(url, "solver", tools=[look]), task, run_config=self.config))


@pytest.fixture(autouse=True)
def only_our_users_processors() -> None:
    """The user's own choice: nothing is exported to OpenAI."""
    set_trace_processors([])


class TestTracingOn(Agents, AdapterContract):
    """As the SDK has it by default."""


class TestTracingOff(Agents, AdapterContract):
    """`RunConfig(tracing_disabled=True)`."""

    config = RunConfig(tracing_disabled=True)


class TestResponses(Agents, AdapterContract):
    """Agents that ask in the Responses API, which the gateway serves over the policy's chat completions."""

    api = OpenAIResponsesModel
