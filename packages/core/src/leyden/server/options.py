"""What an operator decides about a server beyond its store, its keys and its address."""

from dataclasses import dataclass, field
from typing import Literal

from leyden.redaction import Redact
from leyden.server.limits import Limits
from leyden.types import RewardFrom

__all__ = ["DEFAULTS", "ServerOptions"]


@dataclass(frozen=True)
class ServerOptions:
    """See `leyden serve --help`."""

    unattributed: Literal["refuse", "record"] = "refuse"
    """What becomes of model calls under an operator's key, of no rollout."""
    reward_from: RewardFrom = "any"
    """"grader": of no rollout are its agent's own rewards taken, whatever the rollout says."""
    redact: Redact | None = None
    """Takes secrets out of what is stored; None stores texts as they are."""
    limits: Limits = field(default_factory=Limits)


DEFAULTS = ServerOptions()
