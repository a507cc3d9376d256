"""`leyden credit` and `leyden.credit`: a stored rollout under other credit methods, side by side, without training.

The comparison is with the rollout's own group as it is stored. A method that looks at the whole step sees this group
alone; one that needs a critic is refused, because values are not stored.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from leyden.errors import BadConfig
from leyden.types import Reward
from leyden_trainer.credit import Advantage, RolloutView

if TYPE_CHECKING:  # half a second to import, for those who ask for a data frame
    import pandas as pd

__all__ = ["Recomputed", "credit", "recomputed"]


@dataclass(frozen=True)
class Recomputed:
    """One rollout's calls, how they were credited in training, and how each method credits them."""

    rollout: RolloutView
    group_size: int
    left_out: tuple[str, ...]
    """Members of the group that are not finished, incomplete, or without a reward."""
    trained: dict[str, tuple[str, float]]
    """(method, advantage) by call id; empty if it was not trained on."""
    methods: dict[str, dict[str, Advantage]]
    """By method and call id; a call that a user's function leaves out is not in it."""

    @property
    def table(self) -> "pd.DataFrame":
        """One row a call, by id: its agent, its advantage in training, and its advantage under each method."""
        import pandas as pd

        rows = [
            {"id": call.id, "agent": call.agent, "trained": self.trained.get(call.id, (None, None))[1]}
            | {name: of[call.id].value if call.id in of else None for name, of in self.methods.items()}
            for call in self.rollout.calls
        ]
        return pd.DataFrame(rows).set_index("id")


def credit(
    rollout_id: Annotated[str, typer.Argument(metavar="ID", help="A rollout, the beginning of its id, or a call.")],
    method: Annotated[list[str] | None, typer.Option(help="A method's name, or FILE.py:NAME; may be repeated.")] = None,
    store: Annotated[str | None, typer.Option(help="A database file or URL; default: the newest under runs/.")] = None,
    server: Annotated[str | None, typer.Option(help="A server instead; its key in $LEYDEN_KEY.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Credit a stored rollout again by other methods, without training.

    Example: leyden credit calculator-s1-g0-r0 --method gigpo --method dr_mas
    """
    found = asyncio.run(recomputed(rollout_id, method or [], store, server))
    if as_json:
        print(json.dumps(_plain(found)))
    else:
        _print(found)


async def recomputed(name: str, methods: Sequence[str], store: str | None, server: str | None) -> Recomputed:
    """A rollout, by its id, the beginning of it, or a call's, credited by methods; by none it is `broadcast`.

    Raises:
        BadConfig: a method is unknown or needs a critic's values, or the rollout cannot be credited.
    """
    from leyden.cli.source import find_rollout, open_source
    from leyden_trainer.credit import assign, credit_method, view
    from leyden_trainer.experience import read_members

    chosen = [credit_method(method) for method in methods or ["broadcast"]]
    for one in chosen:
        if one.needs_critic:
            raise BadConfig(f"the method {one.name} needs a critic's values, and values are not stored; choose another")
    source = open_source(store, server)
    try:
        rollout = await find_rollout(source, name)
        page = await source.rollouts(group_id=rollout.group_id, limit=1000)
        members = await read_members(source, page.rollouts, max_tokens=None)
        credits = await source.credits([rollout.id])
    finally:
        await source.close()
    usable = [m for m in members if m.rollout.finished and not m.incomplete and _has_reward(m.rewards)]
    group = [view(m.rollout, m.calls, m.rewards) for m in usable]
    mine = next((one for one in group if one.id == rollout.id), None)
    if mine is None:
        raise BadConfig(f"rollout {rollout.id} is not finished, incomplete or without a reward: it cannot be credited")
    return Recomputed(
        rollout=mine,
        group_size=len(group),
        left_out=tuple(m.rollout.id for m in members if m not in usable),
        trained={c.call_id: (c.method, c.advantage) for c in credits},
        methods={one.name: assign(one, [group])[0] for one in chosen},
    )


def _has_reward(rewards: Sequence[Reward]) -> bool:
    return any(reward.agent is None and reward.call_id is None for reward in rewards)


def _plain(found: Recomputed) -> dict[str, object]:
    return {
        "rollout": found.rollout.id,
        "reward": found.rollout.reward,
        "group_size": found.group_size,
        "left_out": found.left_out,
        "calls": [
            {
                "id": call.id,
                "agent": call.agent,
                "trained": found.trained.get(call.id),
                "credit": {
                    name: {"advantage": of[call.id].value, "reason": of[call.id].reason}
                    for name, of in found.methods.items()
                    if call.id in of
                },
            }
            for call in found.rollout.calls
        ],
    }


def _print(found: Recomputed) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("#", "agent", "trained with", *found.methods):
        table.add_column(name, overflow="fold")
    reasons: list[str] = []
    for number, call in enumerate(found.rollout.calls, 1):
        trained = found.trained.get(call.id)
        was = f"{trained[1]:+.3f} {trained[0]}" if trained else "-"
        numbers = [f"{of[call.id].value:+.3f}" if call.id in of else "-" for of in found.methods.values()]
        table.add_row(str(number), escape(call.agent or "unstructured"), was, *numbers)
        reasons += [f"{number} {name}: {of[call.id].reason}" for name, of in found.methods.items() if call.id in of]
    console = Console(soft_wrap=True)
    console.print(
        f"[bold]{escape(found.rollout.id)}[/]  reward {found.rollout.reward:.3g}  group of {found.group_size}"
    )
    if found.left_out:
        console.print(f"left out of the group, not finished or incomplete: {escape(', '.join(found.left_out))}")
    console.print(table)
    for reason in reasons:
        console.print(escape(reason), style="dim", highlight=False)
