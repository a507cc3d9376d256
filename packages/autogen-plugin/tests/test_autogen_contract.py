"""AutoGen's adapter keeps the contract of all adapters."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import openai
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.base import TaskResult
from autogen_agentchat.messages import ModelClientStreamingChunkEvent
from autogen_agentchat.teams import Swarm
from autogen_agentchat.tools import AgentTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel, JsonValue

from leyden.testing.adapter_contract import AdapterContract


class City(BaseModel):
    name: str


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


def model(url: str) -> OpenAIChatCompletionClient:
    info: Any = {
        "vision": False,
        "function_calling": True,
        "json_output": True,
        "structured_output": True,
        "family": "any",
    }
    return OpenAIChatCompletionClient(model="m", base_url=url, api_key="sk-x", max_retries=1, model_info=info)


def an_agent(url: str, name: str, tools: Any = (), **more: Any) -> AssistantAgent:
    settings: Any = {"reflect_on_tool_use": bool(tools), "description": f"Ask {name}.", **more}
    return AssistantAgent(name, model(url), tools=list(tools), system_message=f"You are {name}.", **settings)


def produced(result: TaskResult) -> JsonValue:
    """All messages of a run but for their ids and times."""
    drawn = {"id", "created_at", "models_usage"}
    return [message.model_dump(mode="json", exclude=drawn) for message in result.messages]


class TestAutoGen(AdapterContract):
    adapter = "autogen"

    async def single(self, task: str, url: str) -> JsonValue:
        return produced(await an_agent(url, "solver").run(task=task))

    async def tool_agent(self, task: str, url: str) -> JsonValue:
        return produced(await an_agent(url, "solver", [double]).run(task=task))

    async def streaming(self, task: str, url: str, heard: Callable[[str], None]) -> JsonValue:
        result: Any = None
        async for item in an_agent(url, "solver", [double], model_client_stream=True).run_stream(task=task):
            if isinstance(item, ModelClientStreamingChunkEvent):
                heard(item.content)
            result = item
        return produced(result)

    async def nested(self, task: str, url: str) -> JsonValue:
        helper = AgentTool(an_agent(url, "helper", [double]))
        return produced(await an_agent(url, "boss", [helper]).run(task=task))

    def nested_in_thread(self, task: str, url: str) -> JsonValue:
        return asyncio.run(self.nested(task, url))

    async def parallel(self, task: str, url: str) -> JsonValue:
        branches = [AgentTool(an_agent(url, name)) for name in ("left", "right")]
        result: Any = produced(await an_agent(url, "boss", branches).run(task=task))
        return sorted(result, key=json.dumps)  # AutoGen lists the branches' messages as they come

    async def handoff(self, task: str, url: str) -> JsonValue:
        boss = an_agent(url, "boss", handoffs=["expert"])
        return produced(await Swarm([boss, an_agent(url, "expert")], max_turns=2).run(task=task))

    async def parse_failure(self, task: str, url: str) -> JsonValue:
        return produced(await an_agent(url, "solver", output_content_type=City).run(task=task))

    async def client_in_tool(self, task: str, url: str) -> JsonValue:
        def look(text: str) -> str:
            """Look it up."""
            bare = openai.OpenAI(base_url=url, api_key="sk-x", max_retries=1)
            told: Any = [{"role": "system", "content": "You are bare."}, {"role": "user", "content": text}]
            return bare.chat.completions.create(model="m", messages=told).choices[0].message.content or ""

        return produced(await an_agent(url, "solver", [look]).run(task=task))
