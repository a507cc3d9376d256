"""How many requests the gateway answered in each of the last seconds, and how; of this process, since its start."""

import time
from collections import deque
from dataclasses import dataclass

from leyden.types import CallStatus

__all__ = ["Meter", "Second"]

KEPT_S = 600


@dataclass
class Second:
    """One second's attempts."""

    at: int
    ok: int = 0
    error: int = 0
    cancelled: int = 0
    latency_ms: float = 0.0
    """The sum over those that were answered."""

    @property
    def total(self) -> int:
        return self.ok + self.error + self.cancelled


class Meter:
    """Counts for as long as pages look back."""

    def __init__(self) -> None:
        self._seconds: deque[Second] = deque(maxlen=KEPT_S)
        self.total = 0
        """Attempts since the start."""

    def note(self, status: CallStatus, latency_ms: float) -> None:
        """An attempt has ended."""
        now = int(time.time())
        if not self._seconds or self._seconds[-1].at != now:
            self._seconds.append(Second(now))
        second = self._seconds[-1]
        self.total += 1
        setattr(second, status, getattr(second, status) + 1)
        if status == "ok":
            second.latency_ms += latency_ms

    def last(self, seconds: int) -> list[Second]:
        """Those of the last seconds in which something ended."""
        since = time.time() - seconds
        return [second for second in self._seconds if second.at >= since]
