"""Task files of `leyden run`: one JSON value a line."""

import json
from pathlib import Path

from pydantic import JsonValue

from leyden.errors import BadTask
from leyden.types import Rollout, Sampling, new_id

__all__ = ["queued_rollouts", "read_tasks"]


def read_tasks(path: Path) -> list[JsonValue]:
    """The tasks of a file; blank lines are skipped.

    Raises:
        BadTask: no such file, no task in it, or a line that is not JSON (the message says which).
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadTask(f"cannot read the task file {path}: {error.strerror}") from error
    tasks: list[JsonValue] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                tasks.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise BadTask(f"{path}, line {number}: not JSON ({error}); expected one JSON value a line") from error
    if not tasks:
        raise BadTask(f"{path} has no task; expected one JSON value a line")
    return tasks


def queued_rollouts(tasks: list[JsonValue], *, tries: int, routed: bool, run: str) -> list[Rollout]:
    """`tries` rollouts of each task, in one group; measured when the model is behind the gateway, else only traced."""
    rollouts: list[Rollout] = []
    for number, task in enumerate(tasks, 1):
        group_id = new_id()
        task_id = str(task["id"]) if isinstance(task, dict) and "id" in task else str(number)
        rollouts += [
            Rollout(
                group_id=group_id,
                task_id=task_id,
                task=task,
                mode="eval" if routed else "trace",
                run=run,
                sampling=Sampling(),
            )
            for _ in range(tries)
        ]
    return rollouts
