"""Every error that Leyden raises, one tree. Each class is a situation that the caller can act on.

LeydenError
├── BadInput            a value was refused at the door (also a ValueError)
│   ├── BadReward       NaN, infinity, not a number, or missing
│   ├── BadTask         an empty task file or a line that is not JSON
│   └── BadConfig       an unknown key or an impossible combination in the configuration
├── Conflict            the same id came again with other content
├── NotFound            no record has this id
├── Forbidden           the key is wrong, or does not open this
│   └── NoKey           there is none
├── OverLimit           a limit of the server on size, rate or time was passed
├── LeaseLost           the rollout's lease ran out or another runner holds it
├── Unreachable         a server did not answer, or answered with a fault of its own
├── WrongVersion        a client and a server that do not fit
├── Unattributed        a model call whose rollout cannot be known for certain
└── TrainingStopped     training cannot go on, with the reason (all incomplete, mismatch above its limit, ...)

A message says what, which id, what came, what was expected, and what to do.
"""

__all__ = [
    "BadConfig",
    "BadInput",
    "BadReward",
    "BadTask",
    "Conflict",
    "Forbidden",
    "LeaseLost",
    "LeydenError",
    "NoKey",
    "NotFound",
    "OverLimit",
    "TrainingStopped",
    "Unattributed",
    "Unreachable",
    "WrongVersion",
]


class LeydenError(Exception):
    """The root: catch it to catch everything that Leyden raises on purpose."""


class BadInput(LeydenError, ValueError):
    """A value was refused at the door; nothing was stored."""


class BadReward(BadInput):
    """A reward that is not a finite number (a bool is one)."""


class BadTask(BadInput):
    """A task file that is empty, or has a line that is not JSON."""


class BadConfig(BadInput):
    """An unknown key, a value of the wrong type, or a combination that cannot work."""


class Conflict(LeydenError):
    """The same id was written before with other content; the first content stays."""


class NotFound(LeydenError, LookupError):
    """No record has this id."""


class Forbidden(LeydenError):
    """The key is missing, wrong, or opens something else."""


class NoKey(Forbidden):
    """The request carries no key at all (HTTP 401 rather than 403)."""


class OverLimit(LeydenError):
    """A limit of the server on size (HTTP 413), time (408, 504) or rate (429) was passed."""

    def __init__(self, message: str, status: int = 429) -> None:
        super().__init__(message)
        self.status = status


class LeaseLost(LeydenError):
    """The rollout's lease ran out, or a later attempt of it is held by another runner."""


class Unreachable(LeydenError):
    """A server did not answer, or failed while answering."""


class WrongVersion(LeydenError):
    """A client and a server whose versions do not fit; the message says what to install where."""


class Unattributed(LeydenError):
    """A model call whose rollout cannot be known for certain; it was refused rather than guessed."""


class TrainingStopped(LeydenError):
    """Training cannot go on; the message has the reason and what to change."""
