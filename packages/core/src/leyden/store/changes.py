"""Wakes those who wait for a part of the store to change, in any event loop of this process. No polling.

Unlike a condition variable it has topics: who waits for one rollout sleeps through the commits of all others.
"""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import TypeVar

from sqlalchemy import Connection

__all__ = ["ENDPOINTS", "LEASES", "QUEUE", "Changes", "calls_of", "end_of", "take_touched", "touch"]

T = TypeVar("T")
QUEUE = "queue"
"""There is something to claim."""
LEASES = "leases"
"""A lease began, or ends at another time."""
ENDPOINTS = "endpoints"
"""One was published."""
_TOUCHED = "leyden_touched"


def end_of(rollout_id: str) -> str:
    """The topic of a rollout that ends."""
    return f"end {rollout_id}"


def calls_of(rollout_id: str | None) -> str:
    """The topic of records of a rollout's calls."""
    return f"calls {rollout_id}"


def touch(connection: Connection, topic: str) -> None:
    """Note on the connection that its transaction changes `topic`."""
    connection.info.setdefault(_TOUCHED, set()).add(topic)


def take_touched(connection: Connection) -> set[str]:
    """What was noted since the last time; a savepoint that was rolled back may have noted too much."""
    return connection.info.pop(_TOUCHED, set())


class Changes:
    """Waiters look, sleep until one of their topics changed, and look again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: defaultdict[str, dict[asyncio.Event, asyncio.AbstractEventLoop]] = defaultdict(dict)

    def notify(self, topics: Collection[str] | None) -> None:
        """These were committed (None: whatever it was), here or by another server."""
        with self._lock:
            topics = list(self._waiters) if topics is None else topics
            waiters = {event: loop for topic in topics for event, loop in self._waiters.get(topic, {}).items()}
        for event, loop in waiters.items():
            with suppress(RuntimeError):  # its loop was closed meanwhile; nobody waits there any more
                loop.call_soon_threadsafe(event.set)

    async def until(self, look: Callable[[], Awaitable[T]], *, topics: Collection[str], timeout_s: float) -> T:
        """What `look` returns when it is truthy, or at the end of the time."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        self._enter(event, loop, topics)
        try:
            while True:
                event.clear()
                seen = await look()
                left = ends - loop.time()
                if seen or left <= 0:
                    return seen
                try:
                    # Not wait_for: until Python 3.12 it forgets a cancellation that comes together with the event.
                    async with asyncio.timeout(left):
                        await event.wait()
                except TimeoutError:
                    return await look()
        finally:
            self._leave(event, topics)

    def _enter(self, event: asyncio.Event, loop: asyncio.AbstractEventLoop, topics: Collection[str]) -> None:
        with self._lock:
            for topic in topics:
                self._waiters[topic][event] = loop

    def _leave(self, event: asyncio.Event, topics: Collection[str]) -> None:
        with self._lock:
            for topic in set(topics):
                del self._waiters[topic][event]
                if not self._waiters[topic]:
                    del self._waiters[topic]
