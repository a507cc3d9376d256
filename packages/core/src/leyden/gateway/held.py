"""How long a rollout has been held while weights were swapped. Overlapping requests count once: it waited only once."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

__all__ = ["HeldClock"]


class HeldClock:
    """Runs while at least one request is held. `now` is a monotonic clock in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._holding = 0
        self._since = 0.0
        self._before = 0.0

    @contextmanager
    def holding(self) -> Generator[None]:
        """A request is held for the time of the block."""
        if self._holding == 0:
            self._since = self._now()
        self._holding += 1
        try:
            yield
        finally:
            self._holding -= 1
            if self._holding == 0:
                self._before += self._now() - self._since

    @property
    def held_s(self) -> float:
        """Seconds until now, those of a hold that still goes on too."""
        return self._before + (self._now() - self._since if self._holding else 0.0)
