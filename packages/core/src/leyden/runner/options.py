"""What a runner needs to know."""

from dataclasses import dataclass, field
from typing import Literal

from leyden.scope import Routing
from leyden.types import new_id

__all__ = ["RunnerOptions"]


@dataclass(frozen=True)
class RunnerOptions:
    """How rollouts are run and scored."""

    agent: str
    """PATH.py:NAME or package.module:NAME."""
    server_url: str
    """Where workers find the gateway."""
    reward: str | None = None
    """The same form; None: only the agent itself gives rewards."""
    on_failure: float = 0.0
    concurrency: int = 32
    timeout_s: float = 120.0
    """For one rollout."""
    isolation: Literal["shared", "process"] = "shared"
    routing: Routing = field(default_factory=Routing)
    lease_s: float = 30.0
    grace_s: float = 20.0
    """How long running rollouts may go on after a stop was asked for."""
    patience_s: float = 60.0
    """How long the server may be away before the runner gives up."""
    name: str = field(default_factory=lambda: f"runner-{new_id()[:8]}")
