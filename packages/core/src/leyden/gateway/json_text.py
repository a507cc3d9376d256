"""JSON between three parties, stricter than Python's: NaN, infinities and half surrogates are refused.

They are no JSON, and a store or a client further on would choke on them. By orjson, an integer beyond 64 bits is read
as the nearest double, as most parsers do.
"""

from typing import Any, TypeGuard, cast

import orjson

from leyden.errors import BadInput

__all__ = ["dump", "load_object", "is_object", "is_objects"]


def load_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`; `BadInput` if it is anything else."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"expected a JSON object, got {raw[:80]!r}: {error}") from error
    if not is_object(value):
        raise BadInput(f"expected a JSON object, got {type(value).__name__}: {raw[:80]!r}")
    return value


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8, of what `load_object` gave; orjson would write a NaN from elsewhere as null."""
    return orjson.dumps(value)


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is a JSON object."""
    return isinstance(value, dict)


def is_objects(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether it is a list of JSON objects."""
    return isinstance(value, list) and all(map(is_object, cast("list[Any]", value)))
