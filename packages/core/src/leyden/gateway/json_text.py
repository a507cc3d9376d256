"""JSON between three parties, stricter than Python's: NaN, infinities and half surrogates are refused.

They are no JSON, and a store or a client further on would choke on them.
"""

import json
from typing import Any, TypeGuard, cast

from leyden.errors import BadInput

__all__ = ["dump", "load_object", "is_object", "is_objects"]


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)
_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def load_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`; `BadInput` if it is anything else."""
    try:
        value = _decoder.decode(raw.decode())
        if rb"\ud" in raw or rb"\uD" in raw:
            dump(value)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"expected a JSON object, got {raw[:80]!r}: {error}") from error
    if not is_object(value):
        raise BadInput(f"expected a JSON object, got {type(value).__name__}: {raw[:80]!r}")
    return value


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return _encoder.encode(value).encode()


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is a JSON object."""
    return isinstance(value, dict)


def is_objects(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether it is a list of JSON objects."""
    return isinstance(value, list) and all(map(is_object, cast("list[Any]", value)))
