"""A long poll ends when its client leaves or the server stops, rather than at the end of its time.

Otherwise a server that stops would cut it off with a traceback, and a claim could be made for a runner that is gone.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request

from leyden.errors import Unreachable

__all__ = ["while_wanted"]

T = TypeVar("T")
_PROMPT_S = 0.05  # most work is done by then, and nobody need watch over its client


async def while_wanted(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when nobody waits for it any more.

    Raises:
        Unreachable: the client left, or the server stops; clients try again.
    """
    stopping: asyncio.Event = request.app.state.stopping
    working = asyncio.create_task(work)
    ends: tuple[asyncio.Task[Any], ...] = ()
    try:
        await asyncio.wait((working,), timeout=_PROMPT_S)
        if not working.done():
            ends = (asyncio.create_task(_gone(request)), asyncio.create_task(stopping.wait()))
            await asyncio.wait((working, *ends), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Unreachable("the server is stopping; try again when it is back")
        return working.result()
    finally:
        left: list[asyncio.Task[Any]] = [task for task in (working, *ends) if not task.done()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
