"""Advantages as records for the store: what each call was trained with, and against what it was compared."""

from collections.abc import Mapping

from leyden.types import Credit
from leyden_trainer.credit import Advantage
from leyden_trainer.experience import Batch

__all__ = ["credits_of"]


def credits_of(batch: Batch, advantages: Mapping[str, Advantage], *, run: str, step: int, method: str) -> list[Credit]:
    """One record for each call that has an advantage."""
    owner = {call.id: member.rollout.id for group in batch.groups for member in group for call in member.calls}
    return [
        Credit(
            call_id=call_id,
            rollout_id=owner[call_id],
            run=run,
            step=step,
            method=method,
            advantage=advantage.value,
            reason=advantage.reason,
        )
        for call_id, advantage in advantages.items()
    ]
