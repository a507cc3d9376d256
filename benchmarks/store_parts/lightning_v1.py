"""Agent Lightning v1's gateway under the workload, over its HTTP API; it keeps dictionaries in one process.

argv: URL, shapes as JSON, rounds. It has no claim and no wait: its controller picks rollouts out of a list, and
trainers look every second at each rollout; here they ask for the page of what has ended, one request for all. Its
clients are httpx's; aiohttp, which is used here, is faster.
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any

import aiohttp
import workload


class V1Keeper:
    """A call is an event that its gateway makes of a request; recorded by itself, one with what it would keep."""

    pause_s = 1.0  # `poll_interval_seconds` of its trainer, in agentlightning/verl/agl_rollout_manager.py

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = url
        self._ended: set[str] = set()
        self._after = 0

    async def _ask(self, method: str, path: str, body: Any = None) -> Any:
        async with self._client.request(method, f"/api/rollouts{path}", json=body) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def queue(self, number: int) -> list[str]:
        made = await self._ask("POST", "", [{"input": {"question": place}} for place in range(number)])
        return [one["rollout_id"] for one in made]

    async def claim(self, limit: int) -> list[str]:
        queued = await self._ask("GET", f"?state_in=queuing&limit={limit}")
        claimed = [one["rollout_id"] for one in queued]
        await asyncio.gather(*(self._to(one, "running") for one in claimed))
        return claimed

    async def _to(self, rollout_id: str, state: str) -> None:
        await self._ask("PATCH", f"/{rollout_id}", {"status": {"state": state, "last_attempt_id": "0"}})

    async def call(self, claimed: str, question: str) -> None:
        path = f"proxy/rollout/{claimed}/attempt/0/mode/train/openai/v1/chat/completions"
        await workload.ask(self._client, f"{self._url}/{path}", question)

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

    async def read(self, rollout_ids: Sequence[str]) -> int:
        """Only the triplets: its trainer asks for the whole events too, in a request of their own."""
        paths = (f"/{one}/events?format=triplet" for one in rollout_ids)
        pages = await asyncio.gather(*(self._ask("GET", path) for path in paths))
        events = [event["data"] for page in pages for event in page]
        return sum(bool(data.get("response_log_probs")) for data in events)


async def _main(url: str, shapes: Sequence[tuple[int, int]], rounds: int) -> None:
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as client:
        print(json.dumps(await workload.measure(V1Keeper(client, url), shapes, rounds)), flush=True)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])))
