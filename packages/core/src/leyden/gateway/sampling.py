"""What a rollout's sampling does to a request body: a pure function from body to body and the changes made.

Unlike a proxy's defaults, these win over what the agent wrote, and what bends the sampled distribution so that
the trainer cannot reproduce it is found by name and by value: a penalty of 0 bends nothing.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from leyden.errors import BadInput
from leyden.types import Sampling

__all__ = ["apply", "bending_fields", "seed_of"]

Body = Mapping[str, Any]

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "logits_processors": ([],),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "best_of": (1,),
    "response_format": ({"type": "text"},),
    "structured_outputs": ({},),
    "tool_choice": ("auto", "none"),
}
"""Parameters that bend the distribution, and the values of each that do not. Missing and null never do."""

_GUIDED = "guided_"


def bending_fields(body: Body) -> list[str]:
    """The fields of `body` that bend the distribution, sorted."""
    return sorted(name for name, value in body.items() if value is not None and _bends(name, value))


def _bends(name: str, value: Any) -> bool:
    if name.startswith(_GUIDED):
        return True
    return name in _NEUTRAL and value not in _NEUTRAL[name]


def seed_of(seed: int, call_number: int) -> int:
    """The seed of the n-th call of a rollout (from 0): 31 bits, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}:{call_number}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


def apply(sampling: Sampling, body: Body, call_number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body to send, and the fields that differ from `body` (None: removed).

    Raises:
        BadInput: the body bends the distribution, and this rollout's sampling refuses that.
    """
    changes: dict[str, Any] = {}
    bending = bending_fields(body) if sampling.bending != "allow" else []
    if bending and sampling.bending == "refuse":
        asked = ", ".join(f"{name}={body[name]!r}" for name in bending)
        raise BadInput(
            f"the request has {asked}, which bends the sampled distribution in a way that training cannot reproduce; "
            'take it out of the agent, or set the rollouts\' sampling.bending to "strip" (it is removed) or "allow"'
        )
    changes.update(dict.fromkeys(bending))
    wanted = {"temperature": sampling.temperature, "top_p": sampling.top_p, **_length(sampling, body)}
    if sampling.seed is not None:
        wanted["seed"] = seed_of(sampling.seed, call_number)
    changes |= {name: value for name, value in wanted.items() if value is not None and value != body.get(name)}
    sent = {name: value for name, value in {**body, **changes}.items() if name not in bending}
    return sent, changes


def _length(sampling: Sampling, body: Body) -> dict[str, int]:
    if sampling.max_tokens is None:
        return {}
    asked = {name: body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None}
    if not asked:
        return {"max_tokens": sampling.max_tokens}
    return {name: _bounded(value, sampling.max_tokens) for name, value in asked.items()}


def _bounded(value: Any, bound: int) -> int:
    """What is no length at all (-1, a float) becomes the bound, as servers differ in what they take it for."""
    return value if isinstance(value, int) and 0 <= value <= bound else bound
