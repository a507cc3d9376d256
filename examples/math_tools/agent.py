"""A word-problem agent on AutoGen: it decides when to call its calculator, and what to do with the result."""

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from calculator import calculator
from prompts import SOLVER

model_client = OpenAIChatCompletionClient(model="gpt-4o-mini", temperature=0.2, max_tokens=48)


def make_solver() -> AssistantAgent:
    return AssistantAgent(
        "solver", model_client=model_client, tools=[calculator], max_tool_iterations=4, system_message=SOLVER
    )


async def solve(task: dict) -> str:
    """The last thing that the solver said."""
    return (await make_solver().run(task=task["question"])).messages[-1].to_text()
