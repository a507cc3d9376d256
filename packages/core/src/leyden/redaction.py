"""Secrets taken out of what is stored: by a built-in list of their common forms, or by a user's function, on by choice.

Unlike a scanner that guesses by entropy, the list knows forms that are secrets with near certainty. Token ids say the
same as the text, so a call that changes keeps none, and cannot be trained on.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from leyden.errors import BadConfig
from leyden.types import Attempt, Call, Outcome

__all__ = ["REDACTED", "Redact", "builtin", "redacted_call", "redacted_outcome"]

Redact = Callable[[str], str]
"""A text without its secrets."""

REDACTED = "[redacted]"
_WITHHELD = "redacted: secrets were taken out of its text, so its tokens, which say the same, are not kept"

_WHOLE = (
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    r"\bsk-(?:ant-|proj-|svcacct-|or-)?[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic, OpenRouter
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",  # AWS
    r"\bAIza[A-Za-z0-9_-]{35}",  # Google
    r"\bgh[pousr]_[A-Za-z0-9]{36,}|\bgithub_pat_[A-Za-z0-9_]{40,}",
    r"\bglpat-[A-Za-z0-9_-]{20,}",
    r"\bhf_[A-Za-z0-9]{30,}",
    r"\bnpm_[A-Za-z0-9]{36}",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"\bleyden-(?:read|run|train)-[A-Za-z0-9_-]{40,}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",  # JSON web tokens
)
_AFTER = (
    r"(?<=[Bb]earer )[A-Za-z0-9._~+/=-]{16,}",
    r"(?<=[Bb]asic )[A-Za-z0-9+/]{16,}={0,2}",
    r"(?<=://)[^\s/:@]+:[^\s/@]+(?=@)",  # user and password in a URL
)
_NAMED = re.compile(
    r"""((?:api[_-]?key|secret(?:[_-]?key)?|access[_-]?token|auth[_-]?token|passw(?:or)?d|client[_-]?secret)"""
    r"""\\?["']?\s*[:=]\s*\\?["']?)([^\s"'\\,;}\])]{8,})""",
    re.IGNORECASE,
)
_FORMS = re.compile("|".join((*_WHOLE, *_AFTER)), re.DOTALL)


def builtin(text: str) -> str:
    """The text with `[redacted]` for private keys, providers' keys, tokens, and values named password, api_key, ..."""
    return _NAMED.sub(rf"\1{REDACTED}", _FORMS.sub(REDACTED, text))


def redacted_call(call: Call, redact: Redact) -> Call:
    """The call without secrets in any of its texts. One whose request or answer changed has no tokens, and says why."""
    dumped = call.model_dump(mode="json", exclude={"id", "rollout_id", "attempts"})
    if call.request is not None:
        dumped["request"]["messages"] = [_readable(message) for message in dumped["request"]["messages"]]
    clean = Call.model_validate({**_clean(dumped, redact), "id": call.id, "rollout_id": call.rollout_id})
    attempts = tuple(_attempt(attempt, redact) for attempt in call.attempts)
    if clean.request == call.request and attempts == call.attempts:
        return clean.model_copy(update={"attempts": attempts})
    return clean.model_copy(update={"attempts": tuple(map(_without_tokens, attempts))})


def redacted_outcome(outcome: Outcome, redact: Redact) -> Outcome:
    """The outcome without secrets in its result, its failure and its reasons."""
    texts = outcome.model_dump(mode="json", include={"result", "failure", "incomplete"})
    return Outcome.model_validate({**outcome.model_dump(mode="json"), **_clean(texts, redact)})


def _readable(message: dict[str, Any]) -> dict[str, Any]:
    """The message; a prompt of token ids, in which no function can look for secrets, is one as a whole."""
    tokens = message.get("role") == "prompt" and not isinstance(message.get("content"), str)
    return {**message, "content": REDACTED} if tokens else message


def _attempt(attempt: Attempt, redact: Redact) -> Attempt:
    texts = {
        "error": attempt.error and _text(attempt.error, redact),
        "usage": _clean(attempt.usage, redact),
        "choices": tuple(
            choice.model_copy(update={"message": _clean(choice.message, redact)}) for choice in attempt.choices
        ),
    }
    return attempt.model_copy(update=texts)


def _without_tokens(attempt: Attempt) -> Attempt:
    choices = tuple(choice.model_copy(update={"token_ids": None, "logprobs": None}) for choice in attempt.choices)
    error = f"{attempt.error}; {_WITHHELD}" if attempt.error else _WITHHELD
    return attempt.model_copy(update={"prompt_token_ids": None, "choices": choices, "error": error})


def _clean(value: Any, redact: Redact) -> Any:
    """JSON with all of its texts redacted, names of fields too."""
    if isinstance(value, str):
        return _text(value, redact)
    if isinstance(value, dict):
        return {_text(str(name), redact): _clean(child, redact) for name, child in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, Sequence):
        return [_clean(child, redact) for child in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _text(text: str, redact: Redact) -> str:
    clean: Any = redact(text)
    if not isinstance(clean, str):
        raise BadConfig(f"the redaction function returned {type(clean).__name__}, expected a text; nothing was stored")
    return clean
