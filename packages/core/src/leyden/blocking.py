"""Asynchronous work from synchronous code, also where an event loop runs already, as in a notebook."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from anyio.from_thread import start_blocking_portal

__all__ = ["finished"]

T = TypeVar("T")


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of asynchronous work, also where an event loop runs already, as in a notebook; Ctrl-C cancels it."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)

    async def waited() -> T:
        return await work

    with start_blocking_portal() as portal:
        future = portal.start_task_soon(waited)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise
