"""A research agent on the OpenAI Agents SDK: a researcher reads notes and hands off to a writer, who answers."""

import json
import re
from functools import cache
from pathlib import Path

from agents import Agent, ModelSettings, Runner, function_tool

NOTES = Path(__file__).parent / "notes.jsonl"
MODEL = "gpt-4o-mini"
SHORT = ModelSettings(temperature=0.2, max_tokens=96)


@cache
def notes() -> dict[str, str]:
    """Text by title."""
    return {note["title"]: note["text"] for note in map(json.loads, NOTES.read_text().splitlines())}


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))


@function_tool
def search(query: str) -> list[str]:
    """Titles of the three notes that share most words with the query."""
    wanted = words(query)
    return sorted(notes(), key=lambda title: (-len(wanted & words(f"{title} {notes()[title]}")), title))[:3]


@function_tool
def read(title: str) -> str:
    """The text of a note."""
    return notes().get(title, f"There is no note {title!r}; search for titles first.")


writer = Agent(
    name="writer",
    handoff_description="Writes the answer once the notes that it needs have been read.",
    instructions="Answer the question from what has been read. Reply only with ANSWER(the name).",
    model=MODEL,
    model_settings=SHORT,
)

researcher = Agent(
    name="researcher",
    instructions=(
        "Find what the question asks for. Search for notes and read those you need, one after the other: what one "
        "note names, another explains. When you have read enough, transfer to the writer."
    ),
    tools=[search, read],
    handoffs=[writer],
    model=MODEL,
    model_settings=SHORT,
)


async def solve(task: dict) -> str:
    """What was said last."""
    return str((await Runner.run(researcher, task["question"], max_turns=8)).final_output)
