"""What the commands of `leyden` do, for a notebook or a script: the same functions, with values where a terminal has
files and text. Training and credit are `leyden-trainer`'s.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from leyden.blocking import finished
from leyden.cli.doctor import Finding, findings
from leyden.cli.episodes import Ended, Form, deleted, exported, imported
from leyden.cli.session import Place, Ran, Session, opened_place
from leyden.cli.show import Shown, read_shown
from leyden.cli.source import open_source
from leyden.errors import BadConfig
from leyden.functions import reference_of
from leyden.runner.options import RunnerOptions
from leyden.tasks import read_tasks
from leyden.types import Endpoint, Mode, RewardFrom, Rollout, RolloutStatus

__all__ = ["doctor", "export", "gc", "import_episodes", "rollouts", "run", "show"]

Function = Callable[..., Any] | str


def run(
    agent: Function,
    tasks: Sequence[JsonValue] | str | Path,
    reward: Function | None = None,
    *,
    server: str | None = None,
    model_url: str | None = None,
    model: str | None = None,
    tries: int = 1,
    reward_from: RewardFrom = "any",
    runs: str | Path = "runs",
    **options: Any,
) -> Ran:
    """Run an agent on tasks and score it, without training: `leyden run`.

    Args:
        agent: a function of one task, or its name ("agent.py:solve"). So for `reward`, of a task and a result.
        tasks: JSON values, or a file with one a line.
        server: queue them there; its operator's key is in $LEYDEN_KEY. None keeps them in a new folder of `runs`.
        model_url: base URL of the policy, with /v1, which serves `model`. None: the server's; without a server, calls
            go where the agent sends them.
        tries: rollouts of each task.
        options: more of `RunnerOptions`: concurrency, timeout_s, isolation, on_failure.

    Raises:
        BadConfig: before anything is started, what does not fit together.
    """
    if (model_url is None) != (model is None):
        raise BadConfig("model_url and model belong together")
    wanted = read_tasks(Path(tasks)) if isinstance(tasks, str | Path) else list(tasks)
    if not wanted:
        raise BadConfig("there is no task; give at least one")
    known = {field.name for field in dataclasses.fields(RunnerOptions)} - {"agent", "reward", "server_url"}
    if unknown := options.keys() - known:
        raise BadConfig(f"unknown option {min(unknown)}; known are {', '.join(sorted(known))}")
    keep = Path(runs).resolve() / "inputs"
    chosen = RunnerOptions(
        agent=reference_of(agent, keep=keep, role="agent"),
        reward=reference_of(reward, keep=keep, role="reward") if reward else None,
        server_url="",
        **options,
    )
    endpoint = Endpoint(url=model_url, model=model) if model_url and model else None
    with opened_place(server, os.environ.get("LEYDEN_KEY"), Path(runs)) as place:
        return finished(_ran(chosen, place, endpoint, wanted, tries, reward_from))


async def _ran(
    options: RunnerOptions,
    place: Place,
    endpoint: Endpoint | None,
    tasks: Sequence[JsonValue],
    tries: int,
    reward_from: RewardFrom,
) -> Ran:
    return await Session(options, place, endpoint).run(tasks, tries=tries, reward_from=reward_from)


def rollouts(
    *,
    store: str | Path | None = None,
    server: str | None = None,
    run: str | None = None,
    group: str | None = None,
    mode: Mode | None = None,
    status: RolloutStatus | None = None,
) -> list[Rollout]:
    """All rollouts of a store or a server, oldest first, or those that are meant: `leyden rollouts`."""

    async def read() -> list[Rollout]:
        source = open_source(_text(store), server)
        found: list[Rollout] = []
        after, more = 0, True
        try:
            while more:
                page = await source.rollouts(after=after, limit=1000, run=run, group_id=group, mode=mode, status=status)
                found += page.rollouts
                after, more = page.cursor, page.more
        finally:
            await source.close()
        return found

    return finished(read())


def show(rollout_id: str, *, store: str | Path | None = None, server: str | None = None) -> Shown:
    """One rollout with its calls, rewards and credits; `.tree()` is what `leyden show` prints.

    Args:
        rollout_id: a rollout's id, the beginning of it, or a call's.
        store: a database; None: the newest under `runs`.
    """
    return finished(read_shown(rollout_id, _text(store), server))


def export(
    file: str | Path,
    *,
    to: Form | None = None,
    store: str | Path | None = None,
    server: str | None = None,
    run: str | None = None,
    mode: Mode | None = None,
    status: Ended | None = None,
) -> int:
    """Write finished rollouts to a file that is not there yet, as `leyden export`; returns how many."""
    place = Path(file)
    return finished(exported(place, to=to, store=_text(store), server=server, run=run, mode=mode, status=status))


def import_episodes(file: str | Path, store: str | Path) -> tuple[int, int]:
    """Read exported rollouts into a store, as `leyden import`; returns how many were new, and how many were there."""
    return finished(imported(Path(file), str(store)))


def gc(keep: str, *, store: str | Path | None = None, run: str | None = None, dry_run: bool = False) -> int:
    """Delete what finished longer ago than `keep` ("30d"), as `leyden gc`; returns how many rollouts."""
    return finished(deleted(keep, store=_text(store), run=run, dry_run=dry_run))


def doctor(*, server: str | None = None, port: int = 4700, config: str | Path | None = None) -> list[Finding]:
    """What is wrong with this set-up and what to do, a finding for each line of `leyden doctor`."""
    return finished(findings(server=server, port=port, config=Path(config) if config else None))


def _text(store: str | Path | None) -> str | None:
    return None if store is None else str(store)
