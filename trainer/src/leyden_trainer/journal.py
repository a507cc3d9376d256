"""What a run writes down as it goes: metrics as JSON lines, for TensorBoard and for the store, one record a step."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from leyden.types import Step

__all__ = ["Journal", "noted_step"]


def noted_step(run: str, step: int, metrics: Mapping[str, float]) -> Step:
    """The record for the store. JSON has no NaN and no infinity: such figures are in the journal's files alone."""
    return Step(run=run, step=step, metrics={name: value for name, value in metrics.items() if math.isfinite(value)})


class Journal:
    """`metrics.jsonl` and `tensorboard/` in a run's folder; a resumed run goes on where it stopped."""

    def __init__(self, folder: Path, *, from_step: int) -> None:
        self._path = folder / "metrics.jsonl"
        self._drop_after(from_step)
        self._lines = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One record: {"step": step, **metrics}."""
        self._lines.write(json.dumps({"step": step, **metrics}) + "\n")
        self._lines.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def _drop_after(self, step: int) -> None:
        """Steps that a killed run wrote down but whose weights it had not kept will come again."""
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            self._path.write_text("".join(kept), encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()
