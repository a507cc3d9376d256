"""JSON between three parties, stricter than Python's: NaN, infinities and half surrogates are refused.

They are no JSON, and a store or a client further on would choke on them. By orjson, an integer beyond 64 bits is read
as the nearest double, as most parsers do.
"""

import logging
from collections.abc import Iterable
from typing import Any, TypeGuard, cast

import orjson

from leyden.errors import BadInput

_log = logging.getLogger("leyden.gateway")

__all__ = ["DEEPEST", "check_depth", "dump", "is_object", "is_objects", "load_object", "load_request"]

DEEPEST = 100
"""Levels of lists and objects in a request. Parsers on the way to a reader stop at 200, and a record adds some."""
_SECRETS = {"api_key", "authorization", "headers", "extra_headers"}
"""Fields in which clients of other proxies send a provider's key."""
_NESTING = (dict, list)
_OBJECT = {dict}


def load_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`; `BadInput` if it is anything else."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"expected a JSON object, got {raw[:80]!r}: {error}") from error
    if not is_object(value):
        raise BadInput(f"expected a JSON object, got {type(value).__name__}: {raw[:80]!r}")
    return value


def load_request(raw: bytes) -> dict[str, Any]:
    """The JSON object that a client sent; `BadInput` if it is anything else, or nested too deeply."""
    body = load_object(raw)
    check_depth(body)
    for name in _SECRETS & body.keys():
        _log.warning("field %s of a request is a secret's place: it is neither sent to the policy nor kept", name)
        del body[name]
    return body


def check_depth(value: Any) -> None:
    """`BadInput` if the JSON value has more than 100 levels."""
    level: list[Any] = [value]
    for _ in range(DEEPEST + 1):
        if not level:
            return
        level = [child for parent in level for child in _children(parent) if type(child) in _NESTING]
    raise BadInput(f"the JSON is nested more than {DEEPEST} levels deep; make it flatter, or send it as a text")


def _children(value: Any) -> Iterable[Any]:
    nested: Any = value  # which `type` narrows to a dict of unknowns
    return nested.values() if type(value) is dict else nested


def dump(value: Any) -> bytes:
    """Compact JSON in UTF-8, of what `load_object` gave; orjson would write a NaN from elsewhere as null."""
    return orjson.dumps(value)


def is_object(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is a JSON object."""
    return isinstance(value, dict)


def is_objects(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether it is a list of JSON objects."""
    return isinstance(value, list) and set(map(type, cast("list[Any]", value))) <= _OBJECT
