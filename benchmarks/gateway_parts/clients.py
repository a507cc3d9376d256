"""Agents' model calls without the agents: `openai` clients in one process, told by lines of JSON what to do.

A line names the doors' clients (base URL and key each), whether tokens are asked for, and seconds; the answer is a line
with the calls made, or, for a number of streams, the milliseconds to each one's first chunk.
"""

import asyncio
import itertools
import json
import sys
import time
from typing import Any

import openai

_WORDS = " ".join(f"w{place * 7919 % 9973}" for place in range(180))
_NUMBER = itertools.count()


def _messages() -> Any:
    """A conversation of about 2,000 tokens whose very first words are new."""
    roles = ["system", "user", "assistant", "user", "assistant", "user", "assistant", "user"]
    return [{"role": role, "content": f"{time.time_ns()} {next(_NUMBER)} {_WORDS}"} for role in roles]


async def _call(client: openai.AsyncOpenAI, model: str, extra: dict) -> None:
    answer = await client.chat.completions.create(model=model, messages=_messages(), max_tokens=200, **extra)
    assert len(answer.choices[0].message.content or "") > 900, answer


async def _calls(client: openai.AsyncOpenAI, task: dict, until: float) -> int:
    made = 0
    while time.monotonic() < until:
        await _call(client, task["model"], task["extra"])
        made += 1
    return made


async def _load(task: dict) -> dict:
    clients = [openai.AsyncOpenAI(max_retries=0, timeout=60, **one) for one in task["clients"]]
    await asyncio.gather(*(_call(client, task["model"], task["extra"]) for client in clients))  # connected, warm
    begun = time.monotonic()
    made = await asyncio.gather(*(_calls(client, task, begun + task["seconds"]) for client in clients))
    seconds = time.monotonic() - begun
    await asyncio.gather(*(client.close() for client in clients))
    return {"calls": sum(made), "seconds": seconds}


async def _first_chunks(task: dict) -> dict:
    client = openai.AsyncOpenAI(max_retries=0, timeout=60, **task["clients"][0])
    waited: list[float] = []
    for _ in range(task["streams"]):
        begun = time.perf_counter()
        stream = await client.chat.completions.create(
            model=task["model"], messages=_messages(), stream=True, **task["extra"]
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                waited.append((time.perf_counter() - begun) * 1000)
                break
        async for _chunk in stream:
            pass
    await client.close()
    return {"first_chunk_ms": waited}


if __name__ == "__main__":
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(asyncio.run(_first_chunks(asked) if "streams" in asked else _load(asked))), flush=True)
