"""`leyden rollouts`: a line for each."""

import asyncio
import json
from typing import Annotated

import typer

from leyden.types import Mode, Page, Reward, RolloutStatus

__all__ = ["rollouts"]


def rollouts(
    store: Annotated[str | None, typer.Option(help="A database file or URL; default: the newest under runs/.")] = None,
    server: Annotated[str | None, typer.Option(help="A server instead; its key in $LEYDEN_KEY.")] = None,
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    group: Annotated[str | None, typer.Option(help="Only of this group.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="Only of this kind.")] = None,
    status: Annotated[RolloutStatus | None, typer.Option(help="Only those in this state.")] = None,
    after: Annotated[int, typer.Option(help="Cursor of the page before.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """List rollouts, oldest first.

    Example: leyden rollouts --mode train --status incomplete
    """

    async def read() -> tuple[Page, list[Reward]]:
        from leyden.cli.source import open_source

        source = open_source(store, server)
        try:
            page = await source.rollouts(after=after, limit=limit, run=run, group_id=group, mode=mode, status=status)
            return page, await source.rewards([rollout.id for rollout in page.rollouts])
        finally:
            await source.close()

    page, rewards = asyncio.run(read())
    if as_json:
        print(json.dumps({**page.model_dump(mode="json"), "rewards": [r.model_dump(mode="json") for r in rewards]}))
    else:
        _print_table(page, rewards)


def _print_table(page: Page, rewards: list[Reward]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("id", "task", "mode", "step", "status", "try", "reward", "why"):
        table.add_column(name, overflow="fold")
    for rollout in page.rollouts:
        given = [r.value for r in rewards if r.rollout_id == rollout.id and r.agent is None and r.call_id is None]
        why = "; ".join(rollout.incomplete) or (rollout.failure.message if rollout.failure else "")
        step = "" if rollout.step is None else str(rollout.step)
        reward = f"{sum(given):.3g}" if given else "-"
        row = (rollout.id, rollout.task_id, rollout.mode, step, rollout.status, str(rollout.attempt), reward, why[:80])
        table.add_row(*row)
    console = Console()
    console.print(table)
    if page.more:
        console.print(f"more: --after {page.cursor}")
