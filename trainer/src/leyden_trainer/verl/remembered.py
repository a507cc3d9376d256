"""What a run must know beside verl's checkpoint: `remembered.jsonl` in its folder, a line a step.

verl saves a step's weights before it tells the step's figures, and a run may be killed in between; these lines are
written before both.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Remembered", "begin", "remember"]


@dataclass(frozen=True)
class Remembered:
    """As of a step's end."""

    step: int
    begun: int = 0
    """How often the run was begun: once, and once more for each resumption."""
    num_groups: int = 0
    """Groups taken from the order of tasks, the replaced ones too."""
    credit: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the credit method carries from step to step."""


def begin(folder: Path, *, step: int) -> Remembered:
    """What was known after `step`, which the weights have made; that the run is begun once more is written down."""
    path = folder / "remembered.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]  # a killed run may have left a part of one
    path.write_text("".join(whole), encoding="utf-8")
    known = [Remembered(**json.loads(line)) for line in whole]
    begun = max((one.begun for one in known), default=0) + 1
    last = next((one for one in reversed(known) if one.step <= step), Remembered(0))
    now = dataclasses.replace(last, step=step, begun=begun)
    remember(folder, now)
    return now


def remember(folder: Path, what: Remembered) -> None:
    """Add a line."""
    with (folder / "remembered.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(what)) + "\n")
