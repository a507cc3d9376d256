"""Between verl's rows in TransferQueue and Leyden's credit: scores in, advantages, weights and returns out.

verl keeps figures of a row's responses; Leyden's rows are whole. Both are cut at the first sampled token.
"""

from collections.abc import Sequence
from typing import Any

import torch
import transfer_queue as tq
from torch import Tensor

from leyden_trainer.assignment import Assignment
from leyden_trainer.rows import RowScores, TrainingRow
from leyden_trainer.verl.fields import response_start
from leyden_trainer.verl.manager import Experience

__all__ = ["TransferredScores", "columns_of"]


class TransferredScores:
    """Implements `leyden_trainer.assignment.Scorer` by what verl's workers have computed of the batch."""

    def __init__(self, batch: Any, experience: Experience, *, with_values: bool) -> None:
        names = ["old_log_probs", *(["values"] if with_values else [])]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        self._experience = experience
        self._logprobs = dict(zip(batch.keys, data["old_log_probs"].unbind(0), strict=True))
        self.values = dict(zip(batch.keys, data["values"].unbind(0), strict=True)) if with_values else {}
        """The critic's, by verl's key; empty without one."""

    async def score(self, rows: Sequence[TrainingRow]) -> list[RowScores]:
        """Of all transitions of the experience, in their order: those rows are asked for."""
        keys = self._experience.rows
        return [self._scores(key, row) for (key, _), row in zip(keys.items(), rows, strict=True)]

    def _scores(self, key: str, row: TrainingRow) -> RowScores:
        heads = (self.values[key],) if self.values else ()
        return RowScores(_spread(self._logprobs[key], row), tuple(_spread(head, row) for head in heads))


def _spread(of_responses: Tensor, row: TrainingRow) -> tuple[float, ...]:
    """Figures of the responses at their places in the row; 0 where the mask is False."""
    before = [0.0] * (len(row.mask) - len(of_responses))
    pairs = zip([*before, *of_responses.tolist()], row.mask, strict=True)
    return tuple(value if kept else 0.0 for value, kept in pairs)


def columns_of(
    batch: Any, experience: Experience, assignment: Assignment, *, values: dict[str, Tensor]
) -> dict[str, list[Tensor]]:
    """For each row of verl's batch, over its responses: what its actor and critic learn.

    `rollout_is_weights` are the tokens' weights in the step. Where a method gives a token no target for the critic, its
    return is its own value: nothing is learnt there.
    """
    taught = [t for t in experience.rows.values() if any(s.call_id in assignment.advantages for s in t.spans)]
    rows = {id(t): row for t, row in zip(taught, assignment.rows, strict=True)}
    columns: dict[str, list[Tensor]] = {
        name: [] for name in ("advantages", "returns", "rollout_is_weights", "old_log_probs")
    }
    for key, tag in zip(batch.keys, batch.tags, strict=True):
        transition = experience.rows.get(key)
        row = rows.get(id(transition))
        nothing = torch.zeros(tag["response_len"])
        returns = values[key].clone() if key in values else nothing
        if transition is None or row is None:
            given = (nothing, returns, nothing, nothing)
        else:
            start = response_start(transition)
            for target in row.targets:
                returns[target.place - start] = target.target
            given = (
                torch.tensor(row.advantages[start:]),
                returns,
                torch.tensor(row.weights[start:]),
                torch.tensor(row.logprobs[start:]),
            )
        for name, column in zip(columns, given, strict=True):
            columns[name].append(column)
    return columns
