"""A store into which texts come without their secrets, whoever writes: gateway, adapters or runners.

Tasks stay as they were queued, because agents need them; what is queued is the operator's own.
"""

from collections.abc import Sequence
from pathlib import Path

from leyden.redaction import Redact, redacted_call, redacted_outcome
from leyden.store.sql import SqlStore
from leyden.types import Call, Outcome, Rollout

__all__ = ["open_store"]


class _RedactingStore(SqlStore):
    redact: Redact

    async def record(self, calls: Sequence[Call]) -> None:
        """See `Store.record`."""
        await super().record([redacted_call(call, self.redact) for call in calls])

    async def finish(self, outcome: Outcome) -> Rollout:
        """See `Store.finish`."""
        return await super().finish(redacted_outcome(outcome, self.redact))


def open_store(place: str | Path, redact: Redact | None = None) -> SqlStore:
    """`SqlStore.open`, redacting if there is something to do it."""
    if redact is None:
        return SqlStore.open(place)
    store = _RedactingStore.open(place)
    store.redact = redact
    return store
