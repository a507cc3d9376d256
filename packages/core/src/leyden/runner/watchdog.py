"""Ends a worker whose event loop stands still: an async agent that blocks it stops all others, and all time limits.

A thread looks, because nothing on the loop can.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable

__all__ = ["BLOCKED_STATUS", "watch_loop"]

BLOCKED_STATUS = 70
_BEAT_S = 0.2
_SLACK_S = 2.0
"""For how long a busy machine may keep a loop from running that nothing blocks."""


def watch_loop(limit_s: Callable[[], float | None]) -> None:
    """Watch the running loop: exit when it stands still for 2 s more than `limit_s()` (None: no run is under way)."""
    loop = asyncio.get_running_loop()
    last = [time.monotonic()]

    def beat() -> None:
        last[0] = time.monotonic()
        loop.call_later(_BEAT_S, beat)

    def look() -> None:
        while True:
            time.sleep(_BEAT_S)
            limit = limit_s()
            if limit is not None and time.monotonic() - last[0] > limit + _SLACK_S:
                print("leyden: an async agent blocks the event loop; its worker ends", file=sys.stderr, flush=True)
                os._exit(BLOCKED_STATUS)

    beat()
    threading.Thread(target=look, name="leyden-watchdog", daemon=True).start()
