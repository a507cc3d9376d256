"""Episodes in a file: JSON lines, or Parquet with columns to group by and the episode as JSON in the last one."""

# pyright: reportMissingTypeStubs=false
# pyarrow ships none.
import os
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import ValidationError

from leyden.errors import BadConfig, BadInput
from leyden.store.episodes import Episode

__all__ = ["read_episodes", "write_episodes"]

_AT_ONCE = 50


async def write_episodes(found: AsyncIterator[Episode], file: Path, *, form: Literal["jsonl", "parquet"]) -> int:
    """Write all, whole or not at all, in the place of what is there; returns how many.

    Raises:
        BadConfig: Parquet, without pyarrow.
    """
    part = file.with_name(f"{file.name}.part")
    with open(part, "wb") as sink:  # noqa: ASYNC230  # a file on disk, written by a command that does nothing else
        count = await (_write_lines(found, sink) if form == "jsonl" else _write_parquet(found, sink))
        sink.flush()
        os.fsync(sink.fileno())
    os.replace(part, file)
    return count


def read_episodes(file: Path, *, form: Literal["jsonl", "parquet"]) -> Iterator[list[Episode]]:
    """The episodes of a file, some at a time.

    Raises:
        BadInput: there is no such file, or a line of it is no episode (the message says which).
    """
    if not file.is_file():
        raise BadInput(f"there is no file {file}")
    texts = _lines(file) if form == "jsonl" else _rows(file)
    numbered = enumerate(texts, 1)
    while some := list(islice(numbered, _AT_ONCE)):
        yield [_episode(file, number, text) for number, text in some]


def _episode(file: Path, number: int, text: str) -> Episode:
    try:
        return Episode.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(
            f"{file}, rollout {number}: {where}: {first['msg']}; expected what leyden export wrote"
        ) from error


async def _write_lines(found: AsyncIterator[Episode], sink: IO[bytes]) -> int:
    count = 0
    async for episode in found:
        sink.write(episode.model_dump_json().encode() + b"\n")
        count += 1
    return count


def _lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        yield from lines


async def _write_parquet(found: AsyncIterator[Episode], sink: IO[bytes]) -> int:
    pa, pq = _pyarrow()
    names = {"id", "group_id", "run", "task_id", "mode", "status"}
    kinds = {name: pa.string() for name in names} | {"step": pa.int64(), "attempt": pa.int64(), "calls": pa.int64()}
    kinds |= {"finished_at": pa.float64(), "reward": pa.float64(), "agents": pa.list_(pa.string())}
    schema = pa.schema({**dict(sorted(kinds.items())), "episode": pa.string()})
    count = 0
    with pq.ParquetWriter(sink, schema, compression="zstd") as writer:
        some: list[dict[str, Any]] = []
        async for episode in found:
            some.append(_columns(episode, names))
            count += 1
            if len(some) == _AT_ONCE:
                writer.write_table(pa.Table.from_pylist(some, schema=schema))
                some = []
        writer.write_table(pa.Table.from_pylist(some, schema=schema))
    return count


def _columns(episode: Episode, names: set[str]) -> dict[str, Any]:
    rollout = episode.rollout
    whole = [reward.value for reward in episode.rewards if reward.agent is None and reward.call_id is None]
    agents = {"/".join(call.structure.agent) for call in episode.calls if call.structure and call.structure.agent}
    return {
        **rollout.model_dump(include={*names, "step", "attempt", "finished_at"}),
        "calls": len(episode.calls),
        "reward": sum(whole) if whole else None,
        "agents": sorted(agents),
        "episode": episode.model_dump_json(),
    }


def _rows(file: Path) -> Iterator[str]:
    pa, pq = _pyarrow()
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=_AT_ONCE, columns=["episode"]):
                yield from batch.column(0).to_pylist()
    except (pa.ArrowInvalid, IndexError) as error:
        raise BadInput(f"{file} is no Parquet file that leyden export wrote: {error}") from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BadConfig("Parquet needs pyarrow: pip install leyden[parquet], or export to .jsonl") from error
    return pyarrow, pyarrow.parquet
