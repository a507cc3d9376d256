"""What is checked of a call at the door, and what it lacks for training."""

import math

from leyden.errors import BadInput
from leyden.types import Attempt, Call, Choice

__all__ = ["check", "gaps"]

_SENTINEL = -9999.0  # what vLLM writes for a log probability that it does not have
_ROUNDING = 1e-6


def check(call: Call) -> None:
    """Refuse a call whose numbers cannot be right.

    Raises:
        BadInput: tokens and log probabilities differ in number, or a value is impossible; nothing is repaired.
    """
    for attempt in call.attempts:
        if any(token < 0 for token in attempt.prompt_token_ids or ()):
            raise BadInput(f"call {call.id}, attempt {attempt.number}: a prompt token id is negative")
        for number, choice in enumerate(attempt.choices):
            _check_choice(choice, f"call {call.id}, attempt {attempt.number}, choice {number}")


def _check_choice(choice: Choice, where: str) -> None:
    if any(token < 0 for token in choice.token_ids or ()):
        raise BadInput(f"{where}: a token id is negative")
    if choice.token_ids is None and choice.logprobs is None:
        return
    if choice.token_ids is None or choice.logprobs is None or len(choice.token_ids) != len(choice.logprobs):
        tokens, logprobs = (None if some is None else len(some) for some in (choice.token_ids, choice.logprobs))
        raise BadInput(f"{where}: {tokens} token ids but {logprobs} log probabilities; expected as many, or neither")
    for value in choice.logprobs:
        if not math.isfinite(value) or value > _ROUNDING or value == _SENTINEL:
            raise BadInput(f"{where}: log probability {value}; expected a finite number that is not above 0")


def gaps(call: Call) -> list[str]:
    """Why the call makes its rollout incomplete; [] if it does not."""
    if call.context:
        return []
    if call.status is None:
        return [f"call {call.id} is dangling: it has no terminal record from the gateway"]
    answer = call.answer
    if answer is None:
        return []  # an error or a cancelled call: the agent saw no answer, so there is none to train on
    lacks = _lacks(answer)
    return [f"call {call.id} lacks {', '.join(lacks)}; does the policy server return them?"] if lacks else []


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
