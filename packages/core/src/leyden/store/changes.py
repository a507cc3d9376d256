"""Wakes those who wait for the store to change, in any event loop of this process. No polling."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

__all__ = ["Changes"]

T = TypeVar("T")


class Changes:
    """Waiters look, sleep until something was committed, and look again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    def notify(self) -> None:
        """Something was committed; called on the writer's thread."""
        with self._lock:
            waiters = list(self._waiters.items())
        for event, loop in waiters:
            with suppress(RuntimeError):  # its loop was closed meanwhile; nobody waits there any more
                loop.call_soon_threadsafe(event.set)

    async def until(self, look: Callable[[], Awaitable[T]], *, timeout_s: float) -> T:
        """What `look` returns when it is truthy, or at the end of the time."""
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        ends = loop.time() + timeout_s
        with self._lock:
            self._waiters[event] = loop
        try:
            while True:
                event.clear()
                seen = await look()
                left = ends - loop.time()
                if seen or left <= 0:
                    return seen
                try:
                    await asyncio.wait_for(event.wait(), left)
                except TimeoutError:
                    return await look()
        finally:
            with self._lock:
                del self._waiters[event]
