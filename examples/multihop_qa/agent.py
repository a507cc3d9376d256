"""A question-answering agent on the OpenAI Agents SDK: it searches, reads, searches again, and answers."""

from agents import Agent, ModelSettings, Runner, function_tool
from passages import find

TURNS = 5


@function_tool
def search(query: str) -> str:
    """Find passages by keywords."""
    return "\n".join(find(query))


researcher = Agent(
    name="researcher",
    instructions="Search until you have read the answer. Then reply only ANSWER(text).",
    tools=[search],
    model="gpt-4o-mini",
    model_settings=ModelSettings(temperature=0.2, max_tokens=48),
)


async def solve(task: dict) -> str:
    """What was said last."""
    return str((await Runner.run(researcher, task["question"], max_turns=TURNS)).final_output)
