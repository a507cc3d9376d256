"""The agents by themselves, straight at the address in OPENAI_BASE_URL: how much of a step's time is their own.

Reads a line with the tasks of a step, runs an agent for each at once, prints {"seconds", "cpu"} of this process, and
"exact": the seconds if they ask for what training needs, log probabilities and token ids, as the gateway does.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from agent import score, solve


async def main() -> None:
    """Until there are no more lines."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        tasks = json.loads(line)
        cpu = time.process_time()
        seconds = await all_of(tasks)
        cpu = time.process_time() - cpu
        exact = await all_of(tasks, logprobs=True, extra_body={"return_token_ids": True})
        print(json.dumps({"seconds": seconds, "cpu": cpu, "exact": exact}), flush=True)


async def all_of(tasks: Sequence[dict[str, Any]], **asked: Any) -> float:
    """How long they took."""
    began = time.perf_counter()
    said = await asyncio.gather(*(solve(task, **asked) for task in tasks))
    for task, result in zip(tasks, said, strict=True):
        score(task, result)
    return time.perf_counter() - began


if __name__ == "__main__":
    asyncio.run(main())
