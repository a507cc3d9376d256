"""Content-addressed, reference-counted blocks: a prompt or message list is a chain, shared prefixes are stored once.

A block's hash covers its parent's: equal hashes mean equal prefixes. Tokens are cut every 512; each message is a block.
A block counts its children and the calls that point at it; at zero it goes, and may take its parent with it.
"""

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, delete, select

from leyden.store.packing import compress, decompress, pack_chunks, unpack_tokens
from leyden.store.schema import blocks
from leyden.store.statements import add, among, in_widths, insert_rows, rows_with, run

__all__ = ["Chain", "message_chain", "read_blocks", "read_messages", "read_tokens", "release", "retain", "token_chain"]

CHUNK = 512

_ROOT_BYTES = 4
"""All hashes of a chain begin with these of its root, so that its blocks stand side by side in the index. The other 96
bits tell blocks apart."""

Chain = list[tuple[bytes, bytes | None, bytes]]
"""(hash, parent, data) from the first block to the head."""


def token_chain(token_ids: Sequence[int]) -> Chain:
    """The chain of a prompt; its head is the last block. An empty prompt is one empty block."""
    return _chain(b"tokens", pack_chunks(token_ids, CHUNK))


def message_chain(messages: Iterable[bytes]) -> Chain:
    """The chain of a list of messages, each given as JSON bytes; empty for an empty list."""
    return _chain(b"messages", messages)


def _chain(kind: bytes, contents: Iterable[bytes]) -> Chain:
    chain: Chain = []
    parent: bytes | None = None
    for content in contents:
        digest = hashlib.blake2b(content, digest_size=16, key=parent or kind).digest()
        if parent is not None:
            digest = parent[:_ROOT_BYTES] + digest[_ROOT_BYTES:]
        chain.append((digest, parent, content))
        parent = digest
    return chain


def retain(connection: Connection, chains: Sequence[Chain]) -> None:
    """Store what is new of the chains, and count one more pointer to each head."""
    wanted = {digest: (parent, data) for chain in chains for digest, parent, data in chain}
    known = {row[0] for row in rows_with(connection, (blocks.c.hash,), blocks.c.hash, list(wanted))}
    counts: dict[bytes, int] = {}
    for head in (chain[-1][0] for chain in chains if chain):
        counts[head] = counts.get(head, 0) + 1
    for digest, (parent, _) in wanted.items():
        if digest not in known and parent is not None:
            counts[parent] = counts.get(parent, 0) + 1
    new = [
        {"hash": digest, "parent": parent, "data": compress(data), "refs": counts.get(digest, 0)}
        for digest, (parent, data) in wanted.items()
        if digest not in known
    ]
    insert_rows(connection, blocks, new)
    _count(connection, [(digest, counts[digest]) for digest in known & counts.keys()])


def _count(connection: Connection, changes: Sequence[tuple[bytes, int]]) -> None:
    add(connection, blocks.c.refs, blocks.c.hash, changes)


def release(connection: Connection, heads: Iterable[bytes]) -> None:
    """Count one pointer less to each head, and delete what nothing points at any more."""
    for head in heads:
        digest: bytes | None = head
        while digest is not None:
            _count(connection, [(digest, -1)])
            row = connection.execute(select(blocks.c.parent, blocks.c.refs).where(blocks.c.hash == digest)).one()
            if row.refs > 0:
                break
            connection.execute(delete(blocks).where(blocks.c.hash == digest))
            digest = row.parent


def read_blocks(connection: Connection, heads: Iterable[bytes]) -> dict[bytes, tuple[bytes | None, bytes]]:
    """All blocks of the chains that end in `heads`: hash → (parent, data)."""
    return {
        row.hash: (row.parent, decompress(row.data))
        for width, some in in_widths(list(set(heads)))
        for row in run(connection, _chains_to(width), some)
    }


@cache
def _chains_to(width: int) -> Select[Any]:
    # One recursive query: a long conversation is hundreds of blocks deep; a query for each would hold up the writer.
    found = select(blocks.c.hash, blocks.c.parent).where(among(blocks.c.hash, width)).cte("found", recursive=True)
    found = found.union(select(blocks.c.hash, blocks.c.parent).where(blocks.c.hash == found.c.parent))
    return select(blocks).join(found, found.c.hash == blocks.c.hash)


def _contents(found: Mapping[bytes, tuple[bytes | None, bytes]], head: bytes) -> list[bytes]:
    contents: list[bytes] = []
    digest: bytes | None = head
    while digest is not None:
        digest, data = found[digest]
        contents.append(data)
    return contents[::-1]


def read_tokens(found: Mapping[bytes, tuple[bytes | None, bytes]], head: bytes) -> tuple[int, ...]:
    """The token ids of a chain, out of what `read_blocks` found."""
    return tuple(itertools.chain.from_iterable(map(unpack_tokens, _contents(found, head))))


def read_messages(found: Mapping[bytes, tuple[bytes | None, bytes]], head: bytes) -> list[bytes]:
    """The messages of a chain as JSON bytes, out of what `read_blocks` found."""
    return _contents(found, head)
