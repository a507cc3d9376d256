"""Task files: one JSON value a line."""

import json
from pathlib import Path

from pydantic import JsonValue

from leyden.errors import BadTask

__all__ = ["read_tasks", "task_id"]


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


def task_id(task: JsonValue, number: int) -> str:
    """The task's own "id", else its number in the file, from 1."""
    return str(task["id"]) if isinstance(task, dict) and "id" in task else str(number)
