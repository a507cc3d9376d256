"""A team of two on AutoGen: a solver with a calculator, and a reviewer who approves its answer or sends it back."""

from typing import Annotated, Literal

from autogen_agentchat.agents import AssistantAgent
from autogen_agentchat.conditions import TextMentionTermination
from autogen_agentchat.messages import TextMessage
from autogen_agentchat.teams import RoundRobinGroupChat
from autogen_ext.models.openai import OpenAIChatCompletionClient

model_client = OpenAIChatCompletionClient(model="gpt-4o-mini", temperature=0.2, max_tokens=64)


async def calculate(
    left: Annotated[int, "first number"],
    operation: Literal["+", "-", "*"],
    right: Annotated[int, "second number"],
) -> int:
    """Calculate with two whole numbers."""
    return {"+": left + right, "-": left - right, "*": left * right}[operation]


def make_team() -> RoundRobinGroupChat:
    solver = AssistantAgent(
        "solver",
        model_client=model_client,
        tools=[calculate],
        max_tool_iterations=4,
        system_message="Solve the problem step by step with the calculator. End with ANSWER(number).",
    )
    reviewer = AssistantAgent(
        "reviewer",
        model_client=model_client,
        system_message="Check the answer. Reply APPROVED if it is right, else say what is wrong.",
    )
    approved = TextMentionTermination("APPROVED", sources=["reviewer"])
    return RoundRobinGroupChat([solver, reviewer], termination_condition=approved, max_turns=4)


async def solve(task: dict) -> str:
    """The last text that the solver wrote."""
    result = await make_team().run(task=task["question"])
    texts = [message for message in result.messages if isinstance(message, TextMessage) and message.source == "solver"]
    return texts[-1].content if texts else ""
