"""LangChain's adapter keeps the contract of all adapters."""

from collections.abc import Callable
from typing import Any

import openai
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessageChunk, ToolMessage
from langchain_core.tools import StructuredTool, tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from pydantic import BaseModel, JsonValue

from leyden.testing.adapter_contract import AdapterContract


def model(url: str) -> ChatOpenAI:
    return ChatOpenAI(model="m", base_url=url, api_key="sk-x", max_retries=1, stream_usage=True)  # type: ignore[arg-type]


def asked(task: str) -> Any:
    return {"messages": [{"role": "user", "content": task}]}


def produced(state: dict[str, Any]) -> JsonValue:
    """All messages of a run but for their ids."""
    return [[m.type, m.text, [use["args"] for use in getattr(m, "tool_calls", ())]] for m in state["messages"]]


@tool
def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


def an_agent(url: str, name: str, tools: Any = (), **more: Any) -> Any:
    return create_agent(model(url), list(tools), system_prompt=f"You are {name}.", name=name, **more)


@tool
def transfer_to_expert(runtime: ToolRuntime) -> Command[Any]:
    """Let the expert answer."""
    told = ToolMessage("transferred", tool_call_id=runtime.tool_call_id)
    return Command(goto="expert", graph=Command.PARENT, update={"messages": [*runtime.state["messages"], told]})


def as_tool(agent: Any) -> Any:
    """An agent as a tool, as LangChain's documentation does it; sync and async."""

    def run(text: str) -> str:
        return agent.invoke(asked(text))["messages"][-1].text

    async def arun(text: str) -> str:
        return (await agent.ainvoke(asked(text)))["messages"][-1].text

    return StructuredTool.from_function(run, arun, name=agent.name, description=f"Ask {agent.name}.")


class TestLangChain(AdapterContract):
    adapter = "langchain"

    async def single(self, task: str, url: str) -> JsonValue:
        return produced(await an_agent(url, "solver").ainvoke(asked(task)))

    async def tool_agent(self, task: str, url: str) -> JsonValue:
        return produced(await an_agent(url, "solver", [double]).ainvoke(asked(task)))

    async def streaming(self, task: str, url: str, heard: Callable[[str], None]) -> JsonValue:
        state: Any = {}
        async for mode, part in an_agent(url, "solver", [double]).astream(
            asked(task), stream_mode=["messages", "values"]
        ):
            if mode == "values":
                state = part
            elif isinstance(part[0], AIMessageChunk):
                heard(part[0].text)
        return produced(state)

    async def nested(self, task: str, url: str) -> JsonValue:
        helper = as_tool(an_agent(url, "helper", [double]))
        return produced(await an_agent(url, "boss", [helper]).ainvoke(asked(task)))

    def nested_in_thread(self, task: str, url: str) -> JsonValue:
        helper = as_tool(an_agent(url, "helper", [double]))
        return produced(an_agent(url, "boss", [helper]).invoke(asked(task)))

    async def parallel(self, task: str, url: str) -> JsonValue:
        branches = [as_tool(an_agent(url, name)) for name in ("left", "right")]
        return produced(await an_agent(url, "boss", branches).ainvoke(asked(task)))

    async def handoff(self, task: str, url: str) -> JsonValue:
        graph: Any = StateGraph(MessagesState)
        graph.add_node("boss", an_agent(url, "boss", [transfer_to_expert]), destinations=("expert",))
        graph.add_node("expert", an_agent(url, "expert"))
        graph.add_edge(START, "boss")
        return produced(await graph.compile().ainvoke(asked(task)))

    async def parse_failure(self, task: str, url: str) -> JsonValue:
        class City(BaseModel):
            name: str

        agent = an_agent(url, "solver", response_format=ProviderStrategy(City))
        return produced(await agent.ainvoke(asked(task)))

    async def client_in_tool(self, task: str, url: str) -> JsonValue:
        @tool
        def look(text: str) -> str:
            """Look it up."""
            bare = openai.OpenAI(base_url=url, api_key="sk-x", max_retries=1)
            told: Any = [{"role": "system", "content": "You are bare."}, {"role": "user", "content": text}]
            return bare.chat.completions.create(model="m", messages=told).choices[0].message.content or ""

        return produced(await an_agent(url, "solver", [look]).ainvoke(asked(task)))
