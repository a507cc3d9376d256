"""`leyden export`, `leyden import` and `leyden gc`: whole rollouts out of a store, into another, and away."""

import asyncio
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from leyden.errors import BadInput
from leyden.types import Mode

__all__ = ["Ended", "Form", "deleted", "export", "exported", "gc", "import_episodes", "imported"]

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_AT_ONCE = 200
Form = Literal["jsonl", "parquet"]
Ended = Literal["succeeded", "failed", "incomplete"]
StorePlace = Annotated[str | None, typer.Option(help="A database file or URL; default: the newest under runs/.")]


def export(
    file: Annotated[Path, typer.Argument(help="What to write; it must not exist.", show_default=False)],
    to: Annotated[Form | None, typer.Option(help="Default: by the file's suffix.")] = None,
    store: StorePlace = None,
    server: Annotated[str | None, typer.Option(help="A server instead; its key in $LEYDEN_KEY.")] = None,
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    mode: Annotated[Mode | None, typer.Option(help="Only of this kind.")] = None,
    status: Annotated[Ended | None, typer.Option(help="Only those that ended so.")] = None,
) -> None:
    """Write finished rollouts to a file, exactly, with their calls, tokens, rewards and credits.

    Example: leyden export rollouts.parquet --run calculator
    """
    count = asyncio.run(exported(file, to=to, store=store, server=server, run=run, mode=mode, status=status))
    print(f"{count} rollouts are in {file}")


def import_episodes(
    file: Annotated[Path, typer.Argument(help="A file that `leyden export` wrote.", show_default=False)],
    store: Annotated[str, typer.Option(help="A database file, made if there is none, or a URL.", show_default=False)],
) -> None:
    """Read exported rollouts into a store. Those that are there already, the same, are passed over.

    Example: leyden import rollouts.parquet --store archive.sqlite
    """
    added, there = asyncio.run(imported(file, store))
    print(f"{added} rollouts were added to {store}; {there} were there already")


def gc(
    keep: Annotated[str, typer.Option(help="How long finished rollouts stay: 30d, 12h, 2w.", show_default=False)],
    store: StorePlace = None,
    run: Annotated[str | None, typer.Option(help="Only of this run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count them, delete nothing.")] = False,
) -> None:
    """Delete finished rollouts older than --keep, with all that belongs to them. A file does not shrink, but its pages
    are used again.

    Example: leyden gc --keep 30d --store team.sqlite
    """
    count = asyncio.run(deleted(keep, store=store, run=run, dry_run=dry_run))
    print(f"{count} rollouts {'would be' if dry_run else 'were'} deleted: they finished more than {keep} ago")


async def exported(
    file: Path,
    *,
    to: Form | None = None,
    store: str | None = None,
    server: str | None = None,
    run: str | None = None,
    mode: Mode | None = None,
    status: Ended | None = None,
) -> int:
    """Write finished rollouts to a file that is not there yet; returns how many."""
    from leyden.cli.source import open_source
    from leyden.store.episode_files import write_episodes
    from leyden.store.episodes import episodes

    form = _form_of_new(file, to)
    source = open_source(store, server)
    try:
        return await write_episodes(episodes(source, run=run, mode=mode, status=status), file, form=form)
    finally:
        await source.close()


async def imported(file: Path, store: str) -> tuple[int, int]:
    """Read exported rollouts into a store; returns how many were new, and how many were there already."""
    from leyden.store import SqlStore
    from leyden.store.episode_files import read_episodes

    seen = added = 0
    target = SqlStore.open(store)
    try:
        for some in read_episodes(file, form=_form(file, None)):
            seen += len(some)
            added += await target.add_episodes(some)
    finally:
        await target.close()
    return added, seen - added


async def deleted(keep: str, *, store: str | None = None, run: str | None = None, dry_run: bool = False) -> int:
    """Delete what finished longer ago than `keep`, or count it; returns how many rollouts."""
    from leyden.cli.source import open_sql_store
    from leyden.store.episodes import finished_before

    age_s = _seconds(keep)
    limit = None if dry_run else _AT_ONCE
    target = open_sql_store(store)
    count = 0
    try:
        while ids := await target.look(lambda connection: finished_before(connection, age_s, run, limit)):
            count += len(ids)
            if dry_run:
                break
            await target.delete_rollouts(ids)
    finally:
        await target.close()
    return count


def _form_of_new(file: Path, to: Form | None) -> Form:
    if file.exists():
        raise BadInput(f"{file} exists; name another file, or take it away")
    return _form(file, to)


def _form(file: Path, to: Form | None) -> Form:
    form = to or file.suffix.removeprefix(".")
    if form not in ("jsonl", "parquet"):
        raise BadInput(f"{file} is to be {form or 'of no form'}; expected jsonl or parquet, by its suffix or --to")
    return form


def _seconds(age: str) -> float:
    form = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", age)
    if form is None:
        raise BadInput(f"--keep is {age!r}; expected a number and s, m, h, d or w, such as 30d")
    return float(form[1]) * _UNITS[form[2]]
