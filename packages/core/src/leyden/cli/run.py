"""`leyden run`: an agent on tasks; or, without tasks, a runner that works for a server until it is stopped."""

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import JsonValue

from leyden.cli.session import Ran, Session, opened_place
from leyden.errors import BadConfig
from leyden.runner.options import RunnerOptions
from leyden.scope import Routing
from leyden.tasks import read_tasks
from leyden.types import Endpoint, RewardFrom

__all__ = ["run"]


def run(
    agent: Annotated[str, typer.Argument(help="agent.py:solve or package.module:solve", show_default=False)],
    tasks: Annotated[Path | None, typer.Option(help="JSON lines; without it, work for --server.")] = None,
    reward: Annotated[str | None, typer.Option(help="reward.py:score; called with (task, result).")] = None,
    server: Annotated[str | None, typer.Option(help="URL of a Leyden server; its key in $LEYDEN_KEY.")] = None,
    model_url: Annotated[str | None, typer.Option(help="The policy's base URL with /v1; calls go there.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name at --model-url.")] = None,
    tries: Annotated[int, typer.Option(min=1, help="Rollouts for each task.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1)] = 16,
    timeout: Annotated[float, typer.Option(help="Seconds for one rollout.")] = 120.0,
    grace: Annotated[float, typer.Option(help="Seconds that rollouts may go on after a stop.")] = 20.0,
    isolation: Annotated[
        Literal["shared", "process"], typer.Option(help="shared, or process: one process for each rollout.")
    ] = "shared",
    on_failure: Annotated[float, typer.Option(help="Reward of a rollout whose agent fails.")] = 0.0,
    reward_from: Annotated[
        RewardFrom, typer.Option(help="Whose rewards are taken: any, or grader (no agent's own).")
    ] = "any",
    models: Annotated[str, typer.Option(help="Names of the models that are the policy, with commas; all.")] = "",
    passthrough: Annotated[str, typer.Option(help="Names of models that go where the agent sends them.")] = "",
    runs: Annotated[Path, typer.Option(help="Folder for the store of a run without --server.")] = Path("runs"),
    forever: Annotated[bool, typer.Option("--forever", help="Work for --server until stopped.")] = False,
) -> None:
    """Run an agent on tasks and score it.

    Example: leyden run agent.py:solve --tasks tasks.jsonl --reward reward.py:score
    """
    if (tasks is None) != forever or (forever and server is None):
        raise BadConfig("give --tasks FILE, or --forever with --server URL")
    if (model_url is None) != (model is None):
        raise BadConfig("--model-url and --model belong together")
    wanted = read_tasks(tasks) if tasks else []
    options = RunnerOptions(
        agent=agent,
        server_url="",
        reward=reward,
        on_failure=on_failure,
        concurrency=concurrency,
        timeout_s=timeout,
        grace_s=grace,
        isolation=isolation,
        routing=Routing(_names(models), _names(passthrough)),
    )
    endpoint = Endpoint(url=model_url, model=model) if model_url and model else None
    key = os.environ.pop("LEYDEN_KEY", None) if server else None
    with opened_place(server, key, runs) as place:
        session = Session(options, place, endpoint)
        asyncio.run(_run(session, wanted, tries, reward_from))
    if session.code:
        raise typer.Exit(session.code)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


async def _run(session: Session, tasks: list[JsonValue], tries: int, reward_from: RewardFrom) -> None:
    session.handle_signals()
    if tasks:
        _print(await session.run(tasks, tries=tries, reward_from=reward_from))
    else:
        await session.work()


def _print(ran: Ran) -> None:
    statuses = Counter(rollout.status for rollout in ran.rollouts)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
    print(f"{len(ran.rollouts)} rollouts: {counts}")
    reasons = Counter(reason for rollout in ran.rollouts for reason in rollout.incomplete)
    reasons.update(
        rollout.failure.message for rollout in ran.rollouts if rollout.status == "failed" and rollout.failure
    )
    for reason, count in reasons.most_common(5):
        print(f"  {count} x {reason}")
    if ran.mean_reward is not None:
        print(f"mean reward {ran.mean_reward:.3f} over {len(ran.complete)} complete rollouts")
    where = f"--store {ran.place.store}" if ran.place.store else f"--server {ran.place.url}"
    print(f"look at one:  leyden show {ran.rollouts[0].id} {where}")
