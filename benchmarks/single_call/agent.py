"""The agent: one call."""

from openai import OpenAI
from prompt import messages

client = OpenAI(api_key="none")


def solve(task: dict) -> str:
    """What the model said."""
    answer = client.chat.completions.create(
        model="gpt-4o-mini",
        max_tokens=16,
        messages=messages(task["question"]),  # type: ignore[arg-type]
    )
    return answer.choices[0].message.content or ""
