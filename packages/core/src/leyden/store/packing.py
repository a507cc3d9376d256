"""Numbers as bytes: token ids in the fewest bytes that hold them, log probabilities as float32 where that is exact."""

import struct
import threading
from array import array
from collections.abc import Iterator, Sequence
from typing import cast

import zstandard

__all__ = ["compress", "decompress", "pack_arrays", "pack_chunks", "pack_tokens", "unpack_arrays", "unpack_tokens"]

_HEADER = struct.Struct("<cI")  # type code of the array module, count
_INTEGERS = (("B", 1 << 8), ("H", 1 << 16), ("I", 1 << 32), ("Q", 1 << 64))
_PLAIN, _ZSTD = b"\0", b"\1"
_LEVEL = 1  # of zstd: on blocks this small, higher ones take longer and save nothing


class _Zstd(threading.local):
    """One for each thread, as it may not be shared, and making one costs more than it takes to pack a block."""

    def __init__(self) -> None:
        self.compress = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False).compress
        self.decompress = zstandard.ZstdDecompressor().decompress


_zstd = _Zstd()


def compress(data: bytes) -> bytes:
    """zstd where it helps; the first byte says which."""
    packed = _zstd.compress(data)
    return _ZSTD + packed if len(packed) < len(data) else _PLAIN + data


def decompress(data: bytes) -> bytes:
    """The inverse of `compress`."""
    return _zstd.decompress(data[1:]) if data[:1] == _ZSTD else data[1:]


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids (not negative) as a header and little-endian integers of the least width."""
    most = max(tokens, default=0)
    code = next(code for code, limit in _INTEGERS if most < limit)
    return _HEADER.pack(code.encode(), len(tokens)) + array(code, tokens).tobytes()


def pack_chunks(tokens: Sequence[int], size: int) -> Iterator[bytes]:
    """`pack_tokens` of each `size` tokens, but of one width, so that what comes later changes no chunk before it."""
    try:
        packed = memoryview(array("I", tokens))
    except OverflowError:
        packed = memoryview(array("Q", tokens))
    code = packed.format
    for start in range(0, max(len(tokens), 1), size):
        chunk = packed[start : start + size]
        yield _HEADER.pack(code.encode(), len(chunk)) + chunk.tobytes()


def _pack_floats(values: Sequence[float]) -> bytes:
    single = array("f", values)
    exact = single.tolist() == list(values)
    packed = single if exact else array("d", values)
    return _HEADER.pack(packed.typecode.encode(), len(packed)) + packed.tobytes()


def unpack_tokens(data: bytes) -> tuple[int, ...]:
    """The inverse of `pack_tokens`."""
    return tuple(_unpack(data, 0)[0])


def pack_arrays(arrays: Sequence[Sequence[int] | Sequence[float]]) -> bytes:
    """Several arrays of ints or of floats, one after the other, compressed."""
    parts = [
        _pack_floats(a) if a and isinstance(a[0], float) else pack_tokens(cast("Sequence[int]", a)) for a in arrays
    ]
    return compress(b"".join(parts))


def unpack_arrays(data: bytes) -> list[tuple[int, ...] | tuple[float, ...]]:
    """The inverse of `pack_arrays`."""
    raw, offset = decompress(data), 0
    arrays: list[tuple[int, ...] | tuple[float, ...]] = []
    while offset < len(raw):
        values, offset = _unpack(raw, offset)
        arrays.append(tuple(values))
    return arrays


def _unpack(data: bytes, offset: int) -> "tuple[array[int], int]":
    code, count = _HEADER.unpack_from(data, offset)
    values = cast("array[int]", array(code.decode()))  # pyright: ignore[reportDeprecated]
    start = offset + _HEADER.size
    end = start + count * values.itemsize
    values.frombytes(data[start:end])
    return values, end
