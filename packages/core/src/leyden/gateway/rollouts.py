"""The rollouts that call the model now: looked up once, re-read once a second, their calls numbered.

Not a session store: all but the time that rollouts were held can be read again after a restart of the gateway.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from leyden.errors import LeaseLost
from leyden.gateway.held import HeldClock
from leyden.store.protocol import Store
from leyden.types import Rollout

__all__ = ["Running", "RunningRollouts", "check_running"]

_FRESH_S = 1.0


@dataclass
class Running:
    """A rollout as it was read last, and the numbers of its calls."""

    rollout: Rollout
    read_at: float
    numbers: dict[str, int] | None = None
    """Call id → n, for seeds; None until the first one is asked for."""
    held: HeldClock = field(default_factory=HeldClock)


class RunningRollouts:
    """A small LRU cache over the store. Keys of rollouts that do not run (any more) are refused here."""

    def __init__(self, store: Store, *, capacity: int = 4096) -> None:
        self._store = store
        self._capacity = capacity
        self._seen: OrderedDict[tuple[str, int], Running] = OrderedDict()

    async def admit(self, rollout_id: str, attempt: int) -> Running:
        """The rollout that this key opens.

        Raises:
            NotFound: there is no such rollout.
            LeaseLost: it does not run, or another attempt of it does.
        """
        seen = self._seen.get((rollout_id, attempt))
        if seen is None or time.monotonic() - seen.read_at > _FRESH_S:
            read_at = time.monotonic()
            rollout = await self._store.rollout(rollout_id)
            seen = self._seen.setdefault((rollout_id, attempt), Running(rollout, read_at))
            seen.rollout, seen.read_at = rollout, read_at
        self._seen.move_to_end((rollout_id, attempt))
        if len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
        check_running(seen.rollout, attempt)
        return seen

    async def call_number(self, running: Running, call_id: str) -> int:
        """Which call of its rollout this is, from 0. A retry has its call's number; only seeds need it."""
        if running.numbers is None:
            earlier = [call.id for call in await self._store.calls([running.rollout.id])]
            if running.numbers is None:
                running.numbers = {earlier_id: number for number, earlier_id in enumerate(earlier)}
        return running.numbers.setdefault(call_id, len(running.numbers))


def check_running(rollout: Rollout, attempt: int) -> None:
    """`LeaseLost` unless this attempt of the rollout runs: a key ends with its attempt."""
    if rollout.status != "running" or rollout.attempt != attempt:
        raise LeaseLost(
            f"the key opens attempt {attempt} of rollout {rollout.id}, which is {rollout.status} in attempt "
            f"{rollout.attempt}; its agent must stop, as nothing that it does now is recorded"
        )
