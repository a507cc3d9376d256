"""What is checked of a call at the door, and what it lacks for training."""

import math
from array import array
from collections.abc import Sequence
from typing import Any

from leyden.errors import BadInput
from leyden.types import Attempt, Call, Choice

__all__ = ["DIVERGED", "ROUNDING", "SENTINEL", "are_ids", "check", "gaps", "is_possible"]

SENTINEL = -9999.0
"""What vLLM writes for a log probability that it does not have, as for minus infinity; no such token is sampled."""
ROUNDING = 1e-6
"""How far above 0 a log probability may be, as a softmax in float32 can give 1 + 2**-23. It is kept as it came."""
DIVERGED = "replay diverged"
"""How the gateway's refusal of a request begins that is not the one that was recorded."""


def check(call: Call) -> None:
    """Refuse a call whose numbers cannot be right.

    Raises:
        BadInput: tokens and log probabilities differ in number, or a value is impossible; nothing is repaired.
    """
    for attempt in call.attempts:
        if not are_ids(attempt.prompt_token_ids or ()):
            raise BadInput(f"call {call.id}, attempt {attempt.number}: a prompt token id is not from 0 to 2**64 - 1")
        for number, choice in enumerate(attempt.choices):
            _check_choice(choice, f"call {call.id}, attempt {attempt.number}, choice {number}")


def _check_choice(choice: Choice, where: str) -> None:
    if not are_ids(choice.token_ids or ()):
        raise BadInput(f"{where}: a token id is not from 0 to 2**64 - 1")
    if choice.token_ids is None and choice.logprobs is None:
        return
    if choice.token_ids is None or choice.logprobs is None or len(choice.token_ids) != len(choice.logprobs):
        tokens, logprobs = (None if some is None else len(some) for some in (choice.token_ids, choice.logprobs))
        raise BadInput(f"{where}: {tokens} token ids but {logprobs} log probabilities; expected as many, or neither")
    if choice.logprobs and not is_possible(choice.logprobs):
        wrong = next(value for value in choice.logprobs if not is_possible((value,)))
        raise BadInput(
            f"{where}: log probability {wrong}; expected a finite number, not above 0, and above {SENTINEL}, which "
            "servers write where they have none"
        )


def are_ids(values: Sequence[Any]) -> bool:
    """Whether they can be token ids: natural numbers that fit into 64 bits."""
    try:
        array("Q", values)
    except (TypeError, OverflowError):
        return False
    return True


def is_possible(logprobs: Sequence[float]) -> bool:
    """Whether log probabilities can be those of sampled tokens: finite, not above 0, and no sentinel."""
    # A sum is finite only if all its terms are; each of the three runs at the speed of C.
    return math.isfinite(sum(logprobs)) and max(logprobs) <= ROUNDING and min(logprobs) > SENTINEL


def gaps(call: Call) -> list[str]:
    """Why the call makes its rollout incomplete; [] if it does not."""
    if call.context:
        return []
    if call.status is None:
        return [f"call {call.id} is dangling: it has no terminal record from the gateway"]
    answer = call.answer
    diverged = next((a.error for a in call.attempts if (a.error or "").startswith(DIVERGED)), None)
    if diverged is not None:
        return [f"call {call.id}: {diverged}"]
    if answer is None:
        return []  # an error or a cancelled call: the agent saw no answer, so there is none to train on
    lacks = _lacks(answer)
    why = answer.error or "does the policy server return them?"
    return [f"call {call.id} lacks {', '.join(lacks)}; {why}"] if lacks else []


def _lacks(answer: Attempt) -> list[str]:
    lacks: list[str] = []
    if answer.prompt_token_ids is None:
        lacks.append("prompt token ids")
    if any(choice.token_ids is None for choice in answer.choices) or not answer.choices:
        lacks.append("token ids")
    if any(choice.logprobs is None for choice in answer.choices):
        lacks.append("log probabilities")
    if answer.version is None:
        lacks.append("the policy's version")
    return lacks
