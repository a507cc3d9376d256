"""The agent and its reward: one call, whose answer has all the tokens that it may have."""

import os
from typing import Any

from openai import AsyncOpenAI

client = AsyncOpenAI(api_key="none")
MODEL = os.environ.get("AGENT_MODEL", "policy")


async def solve(task: dict[str, Any], **asked: Any) -> str:
    """What the model said; `asked` are further fields of the request."""
    answer = await client.chat.completions.create(
        model=MODEL, messages=task["messages"], max_tokens=task["max_tokens"], temperature=1, **asked
    )
    return answer.choices[0].message.content or ""


def score(task: dict[str, Any], result: str) -> float:
    """Vowels; what is learnt does not matter here."""
    return sum(result.count(letter) for letter in "aeiou") / 100
