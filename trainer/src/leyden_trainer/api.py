"""`leyden.train(...)` and `leyden.credit(...)`: what these commands do, from a script or a notebook, with functions and
lists as they are.
"""

import hashlib
import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from rich.console import Console

from leyden.blocking import finished
from leyden.errors import BadConfig
from leyden.functions import reference_of
from leyden.tasks import read_tasks
from leyden_trainer.command import session_of
from leyden_trainer.config import TrainConfig, make_config
from leyden_trainer.folders import fresh_folder, unfinished_folder
from leyden_trainer.recomputed import Recomputed, recomputed
from leyden_trainer.run import Run

__all__ = ["credit", "train"]

Function = Callable[..., Any] | str
Tasks = Sequence[JsonValue] | str | Path

HELDOUT = 5
"""One task in so many is held out, where the user named none."""


def train(
    agent: Function | Mapping[str, Any],
    tasks: Tasks,
    reward: Function | Mapping[str, Any],
    *,
    model: str | Mapping[str, Any],
    heldout: Tasks | None = None,
    name: str = "run",
    output: str | Path = "runs",
    resume: bool = False,
    **settings: Any,
) -> Run:
    """Train the model behind an agent, and return the run.

    Args:
        agent: the function that is called with one task, or its name ("agent.py:solve"); a mapping sets more of the
            configuration's `[agent]`, such as {"function": solve, "concurrency": 8}. So for `reward` and `model`.
        tasks: what to learn from: JSON values, or a file with one a line.
        reward: called with a task and the agent's result.
        heldout: what to measure with. None holds out one task in five, drawn by `seed`.
        resume: go on with the newest unfinished run of this name.
        settings: the configuration's other sections and keys: trainer={"steps": 4}, credit={"method": "gigpo"}, seed=1.

    Raises:
        LeydenError: bad input is refused before anything is started; training that cannot go on stops with the reason.
    """
    folder = Path(output).resolve()
    seed = settings.get("seed", 0)
    values = settings | {
        "name": name,
        "output": folder,
        "model": _section(model, "path"),
        "agent": _with_function(agent, folder / "inputs", "agent"),
        "reward": _with_function(reward, folder / "inputs", "reward"),
        "tasks": _task_files(tasks, heldout, folder / "inputs", seed),
    }
    config = make_config(values, folder=Path.cwd(), source="leyden.train")
    place = unfinished_folder(config) if resume else fresh_folder(config)
    finished(_train(config, place))
    return Run(place)


def credit(rollout_id: str, *methods: str, store: str | Path | None = None, server: str | None = None) -> Recomputed:
    """Credit a stored rollout again by other methods, without training; `.table` sets them side by side.

    Args:
        rollout_id: a rollout's id, the beginning of it, or a call's.
        methods: names as in `credit.method`, or FILE.py:NAME; none is "broadcast".
        store: a database; None: the newest under `runs`.

    Raises:
        BadConfig: a method is unknown or needs a critic's values, or the rollout cannot be credited.
    """
    return finished(recomputed(rollout_id, methods, None if store is None else str(store), server))


async def _train(config: TrainConfig, folder: Path) -> None:
    keys = {"server_key": os.environ.get("LEYDEN_KEY"), "judge_key": os.environ.get("LEYDEN_JUDGE_KEY")}
    await session_of(config)(config, folder, Console(soft_wrap=True), **keys)


def _section(value: Any, key: str) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {key: value}


def _with_function(value: Any, keep: Path, role: str) -> dict[str, Any]:
    section = _section(value, "function")
    if "function" not in section:
        raise BadConfig(f"the {role} names no function; expected {{'function': ...}} with other settings beside it")
    return section | {"function": reference_of(section["function"], keep=keep, role=role)}


def _task_files(tasks: Tasks, heldout: Tasks | None, keep: Path, seed: int) -> dict[str, Path]:
    if heldout is not None:
        return {"train": _task_file(tasks, keep), "heldout": _task_file(heldout, keep)}
    values = read_tasks(Path(tasks)) if isinstance(tasks, str | Path) else list(tasks)
    if len(values) < 2:
        raise BadConfig(f"{len(values)} task cannot be parted into training and held-out tasks; give heldout=")
    order = random.Random(seed).sample(range(len(values)), len(values))
    apart = set(order[: max(1, len(values) // HELDOUT)])
    parts = {
        "train": [value for place, value in enumerate(values) if place not in apart],
        "heldout": [value for place, value in enumerate(values) if place in apart],
    }
    return {name: _task_file(part, keep) for name, part in parts.items()}


def _task_file(tasks: Tasks, keep: Path) -> Path:
    """The file of tasks; values are written to one whose name is made from them."""
    if isinstance(tasks, str | Path):
        return Path(tasks).resolve()
    try:
        lines = [json.dumps(task, allow_nan=False) for task in tasks]
    except (TypeError, ValueError) as error:
        raise BadConfig(f"a task must be a JSON value: {error}") from error
    content = "".join(f"{line}\n" for line in lines)
    file = keep / f"tasks-{hashlib.sha256(content.encode()).hexdigest()[:16]}.jsonl"
    keep.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file
