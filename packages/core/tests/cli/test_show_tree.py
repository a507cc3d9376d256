"""`leyden show` prints one tree, whatever the framework: records of real runs, read from a terminal."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.teams import Swarm
from autogen_agentchat.tools import AgentTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from leyden.capture import install_capture, uninstall_capture
from leyden.testing.adapter_agents import tool_user
from leyden.testing.capture_trial import CaptureTrial
from leyden.testing.fake_server import Reply
from leyden.types import Credit, Reward

HELPED = """\
boss
    1  ok
        agent helper
            2  ok
                tool double({"number": 21}) = 42
            3  ok
    4  ok"""
"""A boss whose helper, an agent used as a tool, has a tool of its own."""


@pytest.fixture(autouse=True)
def captured() -> Iterator[None]:
    install_capture(require_scope=True)
    yield
    uninstall_capture()


def show(folder: Path, *flags: str, columns: int = 200) -> str:
    command = [sys.executable, "-m", "leyden", "show", "a", "--store", str(folder / "store.sqlite"), *flags]
    environment = {**os.environ, "COLUMNS": str(columns)}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def outline(shown: str) -> str:
    """Agents, calls and what they led to, by depth; without messages, times, ids and what is said of the rollout."""
    kept: list[str] = []
    for line in shown.splitlines():
        text = line.lstrip("│├└─ ")
        depth = (len(line) - len(text)) // 4 - 1
        if re.fullmatch(r"\w+", text):
            kept.append("    " * depth + text)
        elif re.match(r"\d+  ", text):
            kept.append("    " * depth + re.sub(r"  (version|node) .*", "", text))
        elif re.match(r"(agent|tool) \w+\(|handoff ", text):
            kept.append("    " * depth + re.sub(r"^(agent \w+)\(.*", r"\1", text))
    return "\n".join(kept)


def double(number: int) -> int:
    """Twice the number."""
    return 2 * number


def autogen(name: str, url: str, tools: Any = (), **more: Any) -> AssistantAgent:
    info: Any = {
        "vision": False,
        "function_calling": True,
        "json_output": False,
        "structured_output": False,
        "family": "any",
    }
    model = OpenAIChatCompletionClient(model="m", base_url=url, api_key="sk-x", model_info=info)
    return AssistantAgent(
        name, model, tools=list(tools), system_message=f"You are {name}.", max_tool_iterations=2, **more
    )


async def autogen_boss(task: str, url: str) -> None:
    await autogen("boss", url, [AgentTool(autogen("helper", url, [double]))]).run(task=task)


async def langgraph_boss(task: str, url: str) -> None:
    def make(name: str, tools: list[Any]) -> Any:
        model = ChatOpenAI(model="m", base_url=url, api_key="sk-x")  # type: ignore[arg-type]
        return create_agent(model, tools, system_prompt=f"You are {name}.", name=name)

    inner = make("helper", [tool(double)])

    @tool
    async def helper(text: str) -> str:
        """Ask the helper."""
        return (await inner.ainvoke({"messages": [("user", text)]}))["messages"][-1].text

    await make("boss", [helper]).ainvoke({"messages": [("user", task)]})


@pytest.mark.parametrize("boss", [autogen_boss, langgraph_boss])
async def test_the_tree_is_the_same_from_every_framework(tmp_path: Path, boss: Any) -> None:
    async with CaptureTrial(tmp_path, tool_user) as trial:
        came = await trial.captured(boss, "a")
        assert came.error is None
    shown = await asyncio.to_thread(show, tmp_path)
    assert outline(shown) == HELPED
    assert "result: null" in shown
    assert "reward 1  (reward, by the grader)" in shown
    assert "merge rate 0.67: 2 of 3 later calls go on with the very tokens of an earlier one" in shown
    assert shown.count("user: a") == 2  # what a call had already been told is not told again
    assert shown.count("messages and the answer of") == 2


async def test_handoffs_unstructured_calls_failed_attempts_rewards_and_credit_are_shown(tmp_path: Path) -> None:
    def look() -> str:
        """Look it up."""
        bare = openai.OpenAI(base_url="http://127.0.0.1:9", api_key="sk-x", max_retries=1)
        asked: Any = [{"role": "user", "content": "where [is] it?"}]
        return bare.chat.completions.create(model="m", messages=asked).choices[0].message.content or ""

    async def team(task: str, url: str) -> None:
        boss = autogen("boss", url, [look], handoffs=["expert"])
        await Swarm([boss, autogen("expert", url)], max_turns=2).run(task=task)

    replies = [
        Reply(tool_calls=[("look", {})]),
        Reply(status=503),
        Reply("here"),
        Reply("", [("transfer_to_expert", {})]),
    ]
    left = iter([*replies, Reply("done")])
    async with CaptureTrial(tmp_path, lambda body, headers: next(left)) as trial:
        came = await trial.captured(team, "a")
        assert came.error is None
        last = came.calls[-1].id
        await trial.store.reward([Reward(rollout_id="a", value=0.5, call_id=last, name="style")])
        given = Credit(call_id=last, rollout_id="a", run="r", step=3, method="grpo", advantage=0.25, reason="above")
        await trial.store.credit([given])
    shown = await asyncio.to_thread(show, tmp_path)
    assert outline(shown).splitlines() == [
        "boss",
        "    1  ok",
        "        tool look({}) = here",
        "            2  unstructured  ok",
        "    3  ok",
        "        handoff transfer_to_expert → expert",
        "expert",
        "    4  ok  handed off by 3",
    ]
    lines = [line.strip("│├└─ ") for line in shown.splitlines()]
    assert "user: where [is] it?" in lines
    assert any(line.startswith("attempt 0 error: ") and "scripted fault" in line for line in lines)
    assert "2 attempts" in shown
    assert "reward 0.5 (style)" in lines
    assert lines[0] == "a  train  succeeded  attempt 1  reward 1  return 1.5"
    assert "credit +0.250 (grpo, step 3): above" in lines
    narrow = await asyncio.to_thread(show, tmp_path, columns=48)
    assert max(map(len, narrow.splitlines())) <= 48
    assert "credit +0.250" in narrow
    assert "(2 messages" not in await asyncio.to_thread(show, tmp_path, "--full")
