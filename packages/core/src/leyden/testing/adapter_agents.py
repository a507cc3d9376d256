"""The agents that an adapter's author writes in their framework for `AdapterContract`, and the policy behind them.

All agents are ordinary code of the framework: nothing of Leyden in them. The policy reads from the system prompt who
asks, whatever an adapter says, so that the contract has a witness of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import JsonValue

from leyden.testing.fake_server import Reply

__all__ = ["AGENTS", "OPTIONAL", "AdapterAgents", "speaker", "task_in", "tool_user"]


class AdapterAgents:
    """What a subclass of `AdapterContract` gives.

    Each agent is called with a task (a text) and the base URL of the model, and
    - builds its client and everything else within the function, with `model="m"`, that base URL and one retry;
    - gives agent NAME the system prompt "You are NAME." and the task as the first user message;
    - returns what it produced as JSON: the final text and all that is not drawn at random (no ids, no times);
    - catches no errors.
    The agents' names and the tools' are as the docstrings say, since the contract looks for them. One that is neither
    written nor declared absent is an error when the class is made.
    """

    adapter: ClassVar[str]
    """Name of the entry point in `leyden.adapters`."""
    absent: ClassVar[Mapping[str, str]] = {}
    """Agents that the framework has no form of (see `OPTIONAL`) → why. Their tests are skipped with this reason."""

    async def single(self, task: str, url: str) -> JsonValue:
        """Agent "solver", no tools."""
        raise NotImplementedError

    async def tool_agent(self, task: str, url: str) -> JsonValue:
        """Agent "solver" with a sync function tool `double(number: int) -> int`, which returns twice the number."""
        raise NotImplementedError

    async def streaming(self, task: str, url: str, heard: Callable[[str], None]) -> JsonValue:
        """As `tool_agent`, with every answer streamed; `heard` gets each piece of text as soon as it comes.

        Returns the same as `tool_agent`.
        """
        raise NotImplementedError

    async def nested(self, task: str, url: str) -> JsonValue:
        """Agent "boss" with a tool `helper`, which runs the agent "helper", who has `double`, on the text it gets."""
        raise NotImplementedError

    def nested_in_thread(self, task: str, url: str) -> JsonValue:
        """As `nested`, in the framework's sync form if it has one; called in a thread without an event loop."""
        raise NotImplementedError

    async def parallel(self, task: str, url: str) -> JsonValue:
        """Agent "boss" with tools `left` and `right`, each of which runs the agent of that name, who has no tools."""
        raise NotImplementedError

    async def handoff(self, task: str, url: str) -> JsonValue:
        """Agent "boss" that may hand off to the agent "expert", who has no tools and ends the run with its answer."""
        raise NotImplementedError

    async def parse_failure(self, task: str, url: str) -> JsonValue:
        """Agent "solver", no tools, whose answer must be JSON of a model `City(name: str)`; raises if it is not."""
        raise NotImplementedError

    async def client_in_tool(self, task: str, url: str) -> JsonValue:
        """Agent "solver" with a sync tool `look(text: str) -> str`, which asks a plain `openai.OpenAI(base_url=url)`.

        The tool sends the system prompt "You are bare." and the text, and returns the answer.
        """
        raise NotImplementedError


OPTIONAL = ("handoff", "parallel", "parse_failure")
"""Agents that a framework may be unable to express."""
AGENTS = (
    "single",
    "tool_agent",
    "streaming",
    "nested",
    "nested_in_thread",
    "parallel",
    "handoff",
    "parse_failure",
    "client_in_tool",
)


def tool_user(body: dict[str, Any], headers: Mapping[str, str]) -> Reply:
    """A policy that uses every tool once, all in one answer, and then says "NAME is done"."""
    messages = body["messages"]
    tools = body.get("tools")
    if not tools or any(message["role"] == "tool" for message in messages):
        return Reply(f"{speaker(messages)} is done")
    task = task_in(messages)
    return Reply(tool_calls=[_use(tool["function"], task) for tool in tools])


def _use(function: dict[str, Any], task: str) -> tuple[str, dict[str, Any]]:
    """A call that fits the tool's schema: 21 for a number, the task for a text."""
    schema: dict[str, Any] = function.get("parameters") or {}
    required: list[str] = schema.get("required", [])
    numbers = {name for name in required if schema["properties"][name].get("type") == "integer"}
    return function["name"], {name: 21 if name in numbers else task for name in required}


def speaker(messages: Any) -> str:
    """NAME of the system prompt "You are NAME."."""
    told = [_text(message) for message in messages if message["role"] in ("system", "developer")]
    names = [text.removeprefix("You are ").rstrip(".") for text in told if text.startswith("You are ")]
    if len(names) != 1:
        raise AssertionError(f'expected one system prompt "You are NAME.", got {told}')
    return names[0]


def task_in(messages: Any) -> str:
    """The first user message's text."""
    return next(_text(message) for message in messages if message["role"] == "user")


def _text(message: Mapping[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)
