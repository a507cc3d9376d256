"""Results of the writer's thread for those who await them: one wake-up of an event loop for all that a commit settled.

Unlike `asyncio.wrap_future`, which wakes the loop once for each.
"""

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["Settling"]

T = TypeVar("T")
_Settled = list[tuple["asyncio.Future[Any]", "Future[Any]"]]


class Settling:
    """Futures that were resolved and whose waiters have not been told yet, by their loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._settled: dict[asyncio.AbstractEventLoop, _Settled] = {}

    async def result(self, future: "Future[T]") -> T:
        """The result of `future`, after `tell`; who is cancelled cancels it, if it has not begun."""
        loop, here = asyncio.get_running_loop(), threading.get_ident()
        waiter: asyncio.Future[T] = loop.create_future()

        def keep(done: "Future[T]") -> None:
            if threading.get_ident() == here:  # it was resolved before we could ask, so no `tell` may follow
                _resolve([(waiter, done)])
                return
            with self._lock:
                self._settled.setdefault(loop, []).append((waiter, done))

        future.add_done_callback(keep)
        try:
            return await waiter
        except asyncio.CancelledError:
            future.cancel()
            raise

    def tell(self) -> None:
        """Wake those whose futures were resolved; called on the writer's thread after each commit."""
        with self._lock:
            settled, self._settled = self._settled, {}
        for loop, pairs in settled.items():
            with suppress(RuntimeError):  # its loop was closed meanwhile; nobody waits there any more
                loop.call_soon_threadsafe(_resolve, pairs)


def _resolve(pairs: _Settled) -> None:
    for waiter, done in pairs:
        if waiter.done() or done.cancelled():
            continue
        error = done.exception()
        if error is None:
            waiter.set_result(done.result())
        else:
            waiter.set_exception(error)
