"""Which endpoint a request goes to, and waiting while weights are swapped.

Unlike a load balancer it keeps a rollout on one endpoint (its prefix cache is there), and holds requests instead of
failing them while the endpoint says "held".
"""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from leyden.errors import Unreachable
from leyden.gateway.held import HeldClock
from leyden.store.protocol import Store
from leyden.types import Endpoint

__all__ = ["Endpoints", "Picked", "choose"]

_FRESH_S = 0.05
_APART_S, _APART_TIMES = 0.02, 20  # reading takes no more than a twentieth of the time, unless it takes over 1 ms


@dataclass(frozen=True)
class Picked:
    """The endpoint for a request, and how long the request was held for it."""

    endpoint: Endpoint
    held_s: float


def choose(endpoints: Sequence[Endpoint], key: str) -> Endpoint | None:
    """The endpoint for `key` (a rollout id): of those that serve the newest published model, always the same one.

    By highest hash, so that an endpoint that joins or leaves moves only the rollouts it gains or loses.
    """
    live = [endpoint for endpoint in endpoints if endpoint.state != "gone"]
    same_model = [endpoint for endpoint in live if endpoint.model == live[0].model]
    if len(same_model) < 2:
        return same_model[0] if same_model else None
    return max(same_model, key=lambda endpoint: hashlib.blake2b(f"{key}\0{endpoint.id}".encode()).digest())


class Endpoints:
    """The store's endpoints, read at most every 50 ms; more often where reading costs next to nothing."""

    def __init__(self, store: Store, *, hold_timeout_s: float, absent_timeout_s: float) -> None:
        self._store = store
        self._hold_timeout_s = hold_timeout_s
        self._absent_timeout_s = absent_timeout_s
        self._lock = asyncio.Lock()
        self._read: list[Endpoint] = []
        self._begun_at = float("-inf")
        self._apart_s = 0.0

    async def all(self, *, not_before: float | None = None) -> list[Endpoint]:
        """The endpoints, newest published first, as the store had them after `not_before` (default: 50 ms ago)."""
        oldest = time.monotonic() - _FRESH_S * self._apart_s / _APART_S if not_before is None else not_before
        if self._begun_at >= oldest:
            return self._read
        async with self._lock:
            if self._begun_at < oldest:
                # Many answers that end at about the same time share one look; one that ends alone does not wait.
                early_s = self._begun_at + self._apart_s - time.monotonic()
                if early_s > 0:
                    await asyncio.sleep(early_s)
                begun_at = time.monotonic()
                self._read = await self._store.endpoints()
                self._begun_at = begun_at
                self._apart_s = min(_APART_S, (time.monotonic() - begun_at) * _APART_TIMES)
        return self._read

    @property
    def newest_version(self) -> int | None:
        """The highest version among those that were read last; None for no endpoint."""
        return max((endpoint.version for endpoint in self._read if endpoint.state != "gone"), default=None)

    async def version(self, endpoint_id: str) -> int | None:
        """The version of an endpoint now; None if it is not there any more."""
        endpoints = await self.all(not_before=time.monotonic())
        return next((endpoint.version for endpoint in endpoints if endpoint.id == endpoint_id), None)

    async def pick(self, key: str, clock: HeldClock) -> Picked:
        """The ready endpoint for `key`, waiting while it is held; `clock` runs meanwhile.

        Raises:
            Unreachable: no endpoint was published in time, or it stayed held for too long.
        """
        endpoint = choose(await self.all(), key)
        if endpoint is not None and endpoint.state == "ready":
            return Picked(endpoint, 0.0)
        with clock.holding():
            return await self._ready(key)

    async def _ready(self, key: str) -> Picked:
        begun_at = time.monotonic()
        while True:
            endpoint = choose(await self.all(), key)
            held_s = time.monotonic() - begun_at
            if endpoint is not None and endpoint.state == "ready":
                return Picked(endpoint, held_s)
            if endpoint is None and held_s >= self._absent_timeout_s:
                raise Unreachable(
                    f"no model endpoint is published (waited {held_s:.1f} s); start the trainer or a policy server and "
                    "publish its URL (PUT /api/endpoints/{id}), then try again"
                )
            if held_s >= self._hold_timeout_s:
                raise Unreachable(
                    f"endpoint {endpoint.id if endpoint else '?'} has been held for {held_s:.1f} s, the limit is "
                    f"{self._hold_timeout_s:g} s; see whether the trainer still runs, or raise hold_timeout_s"
                )
            await asyncio.sleep(_FRESH_S)
