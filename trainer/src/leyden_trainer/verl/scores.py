"""Between verl's rows in TransferQueue and Leyden's credit: scores in, advantages, weights and returns out.

verl keeps figures of a row's responses; Leyden's rows are whole. Both are cut at the first sampled token.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
import transfer_queue as tq
from torch import Tensor

from leyden_trainer.assignment import Assignment
from leyden_trainer.rows import RowScores, TrainingRow
from leyden_trainer.verl.critic import TARGETS
from leyden_trainer.verl.fields import response_start
from leyden_trainer.verl.manager import Experience

_NAMES = {"advantages": "advantages", "weights": "rollout_is_weights", "logprobs": "old_log_probs"}

__all__ = ["TransferredScores", "columns_of", "critic_columns"]


class TransferredScores:
    """Implements `leyden_trainer.assignment.Scorer` by what verl's workers have computed of the batch."""

    def __init__(self, batch: Any, experience: Experience, *, with_values: bool) -> None:
        names = ["old_log_probs", *(["values"] if with_values else [])]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        self._experience = experience
        self._logprobs = dict(zip(batch.keys, data["old_log_probs"].unbind(0), strict=True))
        values = zip(batch.keys, data["values"].unbind(0), strict=True) if with_values else ()
        self.values = {key: row if row.dim() > 1 else row[:, None] for key, row in values}
        """The critic's, by verl's key, (j, heads); empty without one."""

    async def score(self, rows: Sequence[TrainingRow]) -> list[RowScores]:
        """Of all transitions of the experience, in their order: those rows are asked for."""
        keys = self._experience.rows
        return [self._scores(key, row) for (key, _), row in zip(keys.items(), rows, strict=True)]

    def _scores(self, key: str, row: TrainingRow) -> RowScores:
        heads = self.values[key].unbind(-1) if self.values else ()
        return RowScores(_spread(self._logprobs[key], row), tuple(_spread(head, row) for head in heads))


def _spread(of_responses: Tensor, row: TrainingRow) -> tuple[float, ...]:
    """Figures of the responses at their places in the row; 0 where the mask is False."""
    before = [0.0] * (len(row.mask) - len(of_responses))
    pairs = zip([*before, *of_responses.tolist()], row.mask, strict=True)
    return tuple(value if kept else 0.0 for value, kept in pairs)


def columns_of(
    batch: Any, experience: Experience, assignment: Assignment, *, values: dict[str, Tensor], parts: int
) -> dict[str, list[Tensor]]:
    """For each row of verl's batch, over its responses: what its actor and critic learn.

    `rollout_is_weights` are the tokens' weights in the step, times the `parts` that the step is updated in. With a
    critic there are `TARGETS` too. verl's own `values` and `returns`, of the low head, are for its figures alone.
    """
    taught = [t for t in experience.rows.values() if any(s.call_id in assignment.advantages for s in t.spans)]
    rows = {id(t): row for t, row in zip(taught, assignment.rows, strict=True)}
    columns: dict[str, list[Tensor]] = defaultdict(list)
    for key, tag in zip(batch.keys, batch.tags, strict=True):
        transition = experience.rows.get(key)
        row = rows.get(id(transition)) if transition is not None else None
        start = response_start(transition) if transition is not None else 0
        for name in ("advantages", "weights", "logprobs"):
            figures = getattr(row, name)[start:] if row is not None else [0.0] * tag["response_len"]
            columns[_NAMES[name]].append(torch.tensor(figures) * (parts if name == "weights" else 1))
        if not values:
            columns["returns"].append(torch.zeros(tag["response_len"]))  # verl's figures want them
        else:
            for name, column in critic_columns(row, start, values[key], parts=parts).items():
                columns[name].append(column)
    return columns


def critic_columns(row: TrainingRow | None, start: int, old: Tensor, *, parts: int) -> dict[str, Tensor]:
    """The critic's columns of a row, (j, heads) but for verl's own; where there is no target, the weight is 0."""
    targets, weights = old.clone(), torch.zeros_like(old)
    for target in row.targets if row is not None else ():
        place = (target.place - start, target.head)
        targets[place], weights[place] = target.target, target.weight * parts
    own = dict(zip(TARGETS, (targets, weights, old), strict=True))
    return {**own, "values": old[:, 0], "returns": targets[:, 0]}
