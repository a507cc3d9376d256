"""Agent Lightning v1's gateway under the workload, over its HTTP API; it keeps dictionaries in one process.

argv: URL, shapes as JSON, rounds. It has no claim and no wait: its controller picks rollouts out of a list, and
trainers ask for what has ended every so often; asking goes on here without a pause.
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import aiohttp
import workload


class V1Keeper:
    """A call is an event with what its gateway would keep of one."""

    def __init__(self, client: aiohttp.ClientSession) -> None:
        self._client = client
        self._queued: deque[str] = deque()
        self._ended: set[str] = set()
        self._after = 0

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self._client.request(method, f"/api/rollouts{path}", json=body) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def queue(self, number: int) -> list[str]:
        made = await self._ask("POST", "", [{"input": {"question": place}} for place in range(number)])
        ids = [one["rollout_id"] for one in made]
        self._queued += ids
        return ids

    async def claim(self, limit: int) -> list[str]:
        claimed = [self._queued.popleft() for _ in range(limit)]
        await asyncio.gather(*(self._to(one, "running") for one in claimed))
        return claimed

    async def _to(self, rollout_id: str, state: str) -> None:
        await self._ask("PATCH", f"/{rollout_id}", {"status": {"state": state, "last_attempt_id": "0"}})

    async def record(self, claimed: str, prompt: list[int]) -> None:
        entries = [{"logprob": value} for value in workload.LOGPROBS]
        message = {"role": "assistant", "content": workload.ANSWER}
        choice = {"message": message, "token_ids": workload.SAMPLED, "logprobs": {"content": entries}}
        request = {"messages": [{"role": "user", "content": workload.QUESTION}]}
        data = {"request": request, "response": {"prompt_token_ids": prompt, "choices": [choice]}}
        await self._event(claimed, "model_request", data)

    async def _event(self, claimed: str, kind: str, data: dict[str, Any]) -> None:
        await self._ask("POST", f"/{claimed}/attempt/0/events", {"event_type": kind, "data": data})

    async def finish(self, claimed: str) -> str:
        await self._event(claimed, "reward", {"value": 1.0})
        await self._to(claimed, "succeeded")
        return claimed

    async def wait(self, rollout_ids: Sequence[str]) -> int:
        page = await self._ask("GET", f"/terminal?after={self._after}")
        self._after = page["next_after"]
        self._ended.update(item["rollout_id"] for item in page["items"])
        return sum(one in self._ended for one in rollout_ids)


async def _main(url: str, shapes: Sequence[tuple[int, int]], rounds: int) -> None:
    async with aiohttp.ClientSession(url) as client:
        print(json.dumps(await workload.measure(V1Keeper(client), shapes, rounds)), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])))
