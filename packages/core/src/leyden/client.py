"""The store's verbs over HTTP, to a Leyden server. Every verb but `claim` is idempotent, so those are tried again.

One event loop for each `HttpStore`: its connections belong to the loop that made them.
"""

import asyncio
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
from pydantic import BaseModel, ValidationError
from yarl import URL

from leyden import __version__, errors
from leyden.compatibility import check_version
from leyden.server import bodies
from leyden.trust import trusted
from leyden.types import Call, Claim, Credit, Endpoint, Mode, Outcome, Page, Reward, Rollout, RolloutStatus, Run, Step

__all__ = ["HttpStore"]

M = TypeVar("M", bound=BaseModel)
_ERRORS = {name: getattr(errors, name) for name in errors.__all__}
_CONNECTIONS = 100
_LARGE_BYTES = 1 << 20  # aiohttp writes longer bodies in parts, and asks for them as a file
_PAUSES_S = (0.1, 0.4, 1.6)  # before each further try


class HttpStore:
    """Implements `leyden.store.protocol.Store` against the server at `url` (without /v1), with the operator's key.

    Before its first request it asks the server for its version; one that does not fit is `WrongVersion`.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"Authorization": f"Bearer {key}"}
        self._fits = False
        self._session: aiohttp.ClientSession | None = None  # it wants a running loop, so the first request makes it

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, ssl=trusted()),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
            )
        return self._session

    async def health(self) -> dict[str, Any]:
        """What the server says of itself; `Unreachable` if it does not."""
        return json.loads((await self._try("GET", "/health")).body)

    async def check(self) -> None:
        """Ask the server for its version, once; every verb does so before it is first used.

        Raises:
            WrongVersion: the two do not fit.
            Unreachable: no server answers.
        """
        if not self._fits:
            check_version(__version__, str((await self.health()).get("version")), self.url)
            self._fits = True

    async def queue(self, rollouts: Sequence[Rollout]) -> None:
        """See `Store.queue`."""
        await self._post("/api/rollouts", bodies.RolloutList(rollouts=list(rollouts)))

    async def claim(self, runner: str, *, limit: int, lease_s: float, wait_s: float = 0.0) -> list[Claim]:
        """See `Store.claim`. A claim whose answer was lost is not repeated: its lease runs out."""
        body = bodies.ClaimRequest(runner=runner, limit=limit, lease_s=lease_s, wait_s=wait_s)
        return (await self._ask("/api/rollouts/claim", body, bodies.ClaimList, wait_s=wait_s, again=False)).claims

    async def heartbeat(self, runner: str, held: Sequence[tuple[str, int]], *, lease_s: float) -> list[str]:
        """See `Store.heartbeat`."""
        body = bodies.Held(runner=runner, held=list(held), lease_s=lease_s)
        return (await self._ask("/api/rollouts/heartbeat", body, bodies.HeldIds)).held

    async def release(self, runner: str, held: Sequence[tuple[str, int]]) -> None:
        """See `Store.release`."""
        await self._post("/api/rollouts/release", bodies.Held(runner=runner, held=list(held)))

    async def record(self, calls: Sequence[Call]) -> None:
        """See `Store.record`."""
        await self._post("/api/calls", bodies.CallList(calls=list(calls)))

    async def reward(self, rewards: Sequence[Reward]) -> None:
        """See `Store.reward`."""
        await self._post("/api/rewards", bodies.RewardList(rewards=list(rewards)))

    async def finish(self, outcome: Outcome) -> Rollout:
        """See `Store.finish`."""
        return await self._ask("/api/rollouts/finish", outcome, Rollout, wait_s=outcome.wait_s)

    async def wait(self, rollout_ids: Sequence[str], *, timeout_s: float) -> list[Rollout]:
        """See `Store.wait`."""
        timeout_s = min(timeout_s, bodies.LONGEST_WAIT_S)
        body = bodies.WaitRequest(rollout_ids=list(rollout_ids), timeout_s=timeout_s)
        return (await self._ask("/api/rollouts/wait", body, bodies.RolloutList, wait_s=timeout_s)).rollouts

    async def rollout(self, rollout_id: str) -> Rollout:
        """See `Store.rollout`."""
        return _read(Rollout, await self._send("GET", f"/api/rollouts/{_quoted(rollout_id)}"))

    async def rollouts(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        run: str | None = None,
        group_id: str | None = None,
        mode: Mode | None = None,
        status: RolloutStatus | None = None,
    ) -> Page:
        """See `Store.rollouts`."""
        wanted = {"after": after, "limit": limit, "run": run, "group_id": group_id, "mode": mode, "status": status}
        query = {name: value for name, value in wanted.items() if value is not None}
        return _read(Page, await self._send("GET", "/api/rollouts", query=query))

    async def calls(self, rollout_ids: Sequence[str]) -> list[Call]:
        """See `Store.calls`."""
        return (
            await self._ask("/api/calls/query", bodies.IdList(rollout_ids=list(rollout_ids)), bodies.CallList)
        ).calls

    async def call(self, call_id: str) -> Call:
        """See `Store.call`."""
        return _read(Call, await self._send("GET", f"/api/calls/{_quoted(call_id)}"))

    async def rewards(self, rollout_ids: Sequence[str]) -> list[Reward]:
        """See `Store.rewards`."""
        body = bodies.IdList(rollout_ids=list(rollout_ids))
        return (await self._ask("/api/rewards/query", body, bodies.RewardList)).rewards

    async def publish(self, endpoint: Endpoint) -> None:
        """See `Store.publish`."""
        await self._send("PUT", f"/api/endpoints/{_quoted(endpoint.id)}", endpoint.model_dump_json())

    async def endpoints(self) -> list[Endpoint]:
        """See `Store.endpoints`."""
        return _read(bodies.EndpointList, await self._send("GET", "/api/endpoints")).endpoints

    async def credit(self, credits: Sequence[Credit]) -> None:
        """See `Store.credit`."""
        await self._post("/api/credits", bodies.CreditList(credits=list(credits)))

    async def credits(self, rollout_ids: Sequence[str]) -> list[Credit]:
        """See `Store.credits`."""
        body = bodies.IdList(rollout_ids=list(rollout_ids))
        return (await self._ask("/api/credits/query", body, bodies.CreditList)).credits

    async def begin(self, run: Run, *, after_step: int = 0) -> None:
        """See `Store.begin`."""
        await self._post("/api/runs", bodies.RunBegin(run=run, after_step=after_step))

    async def note(self, steps: Sequence[Step]) -> None:
        """See `Store.note`."""
        await self._post("/api/steps", bodies.StepList(steps=list(steps)))

    async def runs(self) -> list[Run]:
        """See `Store.runs`."""
        return _read(bodies.RunList, await self._send("GET", "/api/runs")).runs

    async def steps(self, run: str) -> list[Step]:
        """See `Store.steps`."""
        return _read(bodies.StepList, await self._send("GET", "/api/steps", query={"run": run})).steps

    async def close(self) -> None:
        """See `Store.close`."""
        if self._session is not None:
            await self._session.close()

    async def _post(self, path: str, body: BaseModel) -> None:
        await self._send("POST", path, body.model_dump_json())

    async def _ask(self, path: str, body: BaseModel, kind: type[M], *, wait_s: float = 0.0, again: bool = True) -> M:
        return _read(kind, await self._send("POST", path, body.model_dump_json(), wait_s=wait_s, again=again))

    async def _send(
        self,
        method: str,
        path: str,
        content: str | None = None,
        *,
        query: dict[str, str | int] | None = None,
        wait_s: float = 0.0,
        again: bool = True,
    ) -> "_Answer":
        await self.check()
        whole = path if query is None else f"{path}?{urlencode(query)}"
        return await self._try(method, whole, content, wait_s=wait_s, again=again)

    async def _try(
        self, method: str, path: str, content: str | None = None, *, wait_s: float = 0.0, again: bool = True
    ) -> "_Answer":
        pauses = [*_PAUSES_S, None]
        for pause_s in pauses:
            try:
                answer = await self._request(method, path, content, self._timeout_s + wait_s)
            except (aiohttp.ClientError, TimeoutError) as error:
                never_arrived = isinstance(error, aiohttp.ClientConnectorError)
                if pause_s is None or not (again or never_arrived):
                    raise errors.Unreachable(
                        f"the Leyden server at {self.url} did not answer {method} {path}: "
                        f"{type(error).__name__} {error}; is it running? start it with `leyden serve`"
                    ) from error
            else:
                if answer.status != 503 or pause_s is None or not again:
                    return _checked(answer, f"{method} {self.url}{path}")
            await asyncio.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    async def _request(self, method: str, path: str, content: str | None, silent_s: float) -> "_Answer":
        raw = None if content is None else content.encode()
        async with self._client().request(
            method,
            URL(f"{self.url}{path}", encoded=True),
            data=io.BytesIO(raw) if raw is not None and len(raw) > _LARGE_BYTES else raw,
            headers=None if raw is None else {"Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(connect=silent_s, sock_connect=self._timeout_s, sock_read=silent_s),
            allow_redirects=False,
        ) as response:
            return _Answer(response.status, await response.read(), str(response.url))


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    url: str


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _read(kind: type[M], answer: _Answer) -> M:
    try:
        return kind.model_validate_json(answer.body)
    except ValidationError as error:
        raise errors.Unreachable(
            f"{answer.url} did not answer as a Leyden server of this version does: {error}"
        ) from error


def _checked(answer: _Answer, what: str) -> _Answer:
    """The answer, or the error that it tells of, with the server's own words."""
    if 200 <= answer.status < 300:
        return answer
    try:
        told = json.loads(answer.body)["error"]
        kind, message = _ERRORS.get(told["type"], errors.Unreachable), str(told["message"])
    except (ValueError, KeyError, TypeError):
        said = answer.body.decode(errors="replace")[:300]
        kind, message = errors.Unreachable, f"{what} answered {answer.status}: {said}"
    if answer.status in (401, 403):
        kind = errors.Forbidden
    raise kind(message)
