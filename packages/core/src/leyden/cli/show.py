"""`leyden show`: one rollout as a tree of agents, calls and tools, what each said, and which credit it got and why."""

import asyncio
import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from leyden.continuity import answered, continued
from leyden.types import Call, Credit, Reward, Rollout

__all__ = ["Shown", "read_shown", "show"]

SHORT = 300


@dataclass(frozen=True)
class Shown:
    """A rollout and all that belongs to it."""

    rollout: Rollout
    calls: list[Call]
    rewards: list[Reward]
    credits: list[Credit]

    def tree(self, limit: int | None = SHORT) -> Any:
        """What `leyden show` prints, as a `rich` tree, which a notebook shows too.

        Args:
            limit: characters of a message that are shown; None for everything.
        """
        from rich.markup import escape
        from rich.tree import Tree

        from leyden.cli.tree import add_calls
        from leyden.said import shortened

        rollout = self.rollout
        whole = [reward for reward in self.rewards if reward.agent is None and reward.call_id is None]
        total = f"reward {sum(r.value for r in whole):.3g}" if whole else "no reward"
        if self.rewards:
            total += f"  return {sum(r.value for r in self.rewards):.3g}"
        head = f"{rollout.mode}  {rollout.status}  attempt {rollout.attempt}  {total}"
        tree = Tree(f"[bold]{escape(rollout.id)}[/]  {head}")
        tree.add(escape(f"task {rollout.task_id}: {shortened(json.dumps(rollout.task, ensure_ascii=False), limit)}"))
        add_calls(tree, self.calls, self.rewards, self.credits, limit)
        if rollout.failure is not None:
            tree.add(escape(f"{rollout.failure.kind}: {rollout.failure.message}"), style="red")
        for reason in rollout.incomplete:
            tree.add(escape(f"incomplete: {reason}"), style="yellow")
        tree.add(escape(f"result: {shortened(json.dumps(rollout.result, ensure_ascii=False), limit)}"))
        for reward in self.rewards:
            whom = f" to {reward.agent or reward.call_id}" if reward.agent or reward.call_id else ""
            tree.add(escape(f"reward {reward.value:g}{whom}  ({reward.name}, by the {reward.source})"))
        merged = _merged(self.calls)
        if merged:
            tree.add(merged)
        return tree


def show(
    rollout_id: Annotated[str, typer.Argument(metavar="ID", help="A rollout, the beginning of its id, or a call.")],
    store: Annotated[str | None, typer.Option(help="A database file or URL; default: the newest under runs/.")] = None,
    server: Annotated[str | None, typer.Option(help="A server instead; its key in $LEYDEN_KEY.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Whole messages.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with all tokens.")] = False,
) -> None:
    """Show one rollout: its calls, their tokens, the rewards, and the credit.

    Example: leyden show calculator-s1-g0-r0
    """
    shown = asyncio.run(read_shown(rollout_id, store, server))
    if as_json:
        parts: dict[str, Any] = {"rollout": shown.rollout.model_dump(mode="json")}
        for name in ("calls", "rewards", "credits"):
            parts[name] = [item.model_dump(mode="json") for item in getattr(shown, name)]
        print(json.dumps(parts))
    else:
        from rich.console import Console

        Console().print(shown.tree(None if full else SHORT))


async def read_shown(name: str, store: str | None, server: str | None) -> Shown:
    """A rollout by its id, the beginning of it, or a call's."""
    from leyden.cli.source import find_rollout, open_source

    source = open_source(store, server)
    try:
        rollout = await find_rollout(source, name)
        ids = [rollout.id]
        return Shown(rollout, await source.calls(ids), await source.rewards(ids), await source.credits(ids))
    finally:
        await source.close()


def _merged(calls: list[Call]) -> str | None:
    """How many calls go on where an earlier one ended; None where tokens are unknown or there is one call only."""
    answers = answered(calls)
    if len(answers) < 2 or any(answer.prompt_token_ids is None for _, answer in answers):
        return None
    count, later = continued(calls)
    return (
        f"merge rate {count / later:.2f}: {count} of {later} later calls go on with the very tokens of an earlier one"
    )
