"""A call as a row and back: a light JSON record, packed arrays beside it, heads of block chains for what repeats."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic_core import from_json

from leyden.store.blocks import Chain, message_chain, read_messages, read_tokens, token_chain
from leyden.store.packing import compress, decompress, pack_arrays, unpack_arrays
from leyden.types import Call

__all__ = ["EncodedCall", "agents_in", "decode", "encode", "heads"]

Found = dict[bytes, tuple[bytes | None, bytes]]


@dataclass(frozen=True)
class EncodedCall:
    """What `decode` needs, and the chains whose heads the record names."""

    record: bytes
    arrays: bytes
    chains: tuple[Chain, ...]


def encode(call: Call) -> EncodedCall:
    """Take what is large out of a call: messages, tool schemas and prompts become chains, the rest packed arrays."""
    light = _shallow(call)
    chains: list[Chain] = []
    arrays: list[Sequence[int] | Sequence[float]] = []

    def chain(made: Chain) -> str | None:
        if made:
            chains.append(made)
        return made[-1][0].hex() if made else None

    if call.request is not None:
        light["request"]["messages"] = chain(message_chain(map(_json, call.request.messages)))
        light["request"]["tools"] = chain(message_chain(map(_json, call.request.tools)))
    for attempt, thin in zip(call.attempts, light["attempts"], strict=True):
        prompt = attempt.prompt_token_ids
        thin["prompt_token_ids"] = None if prompt is None else chain(token_chain(prompt))
        for choice, slim in zip(attempt.choices, thin["choices"], strict=True):
            slim["token_ids"] = choice.token_ids is not None
            slim["logprobs"] = choice.logprobs is not None
            arrays += [values for values in (choice.token_ids, choice.logprobs) if values is not None]
    return EncodedCall(compress(_json(light)), pack_arrays(arrays), tuple(chains))


def _shallow(call: Call) -> dict[str, Any]:
    """The fields of a call, in dicts of their own as far down as `encode` puts something else in their place."""
    attempts = [
        {**vars(attempt), "choices": [{**vars(choice)} for choice in attempt.choices]} for attempt in call.attempts
    ]
    return {**vars(call), "request": call.request and {**vars(call.request)}, "attempts": attempts}


def _json(value: object) -> bytes:
    """JSON of values and models as they are: they were validated, and all their fields are JSON."""
    try:
        return orjson.dumps(value, default=vars)
    except TypeError:  # an integer beyond 64 bits, or half of a surrogate pair, which then is refused
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=vars).encode()


def _light(record: bytes) -> dict[str, Any]:
    """The record with heads in place of what is in blocks."""
    return from_json(decompress(record))


def heads(records: Iterable[bytes]) -> list[bytes]:
    """The heads of all chains that the records name, as often as they name them."""
    found: list[bytes] = []
    for record in records:
        light = _light(record)
        if light["request"] is not None:
            found += [bytes.fromhex(light["request"][name]) for name in ("messages", "tools") if light["request"][name]]
        found += [bytes.fromhex(a["prompt_token_ids"]) for a in light["attempts"] if a["prompt_token_ids"]]
    return found


def agents_in(records: Iterable[bytes]) -> set[str]:
    """The names of all agents that made the calls."""
    structures = [_light(record)["structure"] for record in records]
    return {name for structure in structures if structure is not None for name in structure["agent"]}


def decode(record: bytes, arrays: bytes, found: Found) -> Call:
    """The call again, exactly; `found` holds the blocks of its chains."""
    light = _light(record)
    values = iter(unpack_arrays(arrays))
    if light["request"] is not None:
        for name in ("messages", "tools"):
            head = light["request"][name]
            parts = read_messages(found, bytes.fromhex(head)) if head else []
            light["request"][name] = [from_json(part) for part in parts]
    for attempt in light["attempts"]:
        head = attempt["prompt_token_ids"]
        attempt["prompt_token_ids"] = read_tokens(found, bytes.fromhex(head)) if head else None
        for choice in attempt["choices"]:
            for name in ("token_ids", "logprobs"):
                choice[name] = next(values) if choice[name] else None
    return Call.model_validate(light)
