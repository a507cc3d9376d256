"""Which rollout is this code running for? A context variable, with a process-wide default for one rollout per process.

Unlike a plain ContextVar, a scope can be closed: code that outlives its rollout (a forgotten thread) is refused.
"""

import contextvars
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Routing", "Scope", "current_scope", "enter_scope", "scope_variable", "set_process_scope"]


@dataclass(frozen=True)
class Routing:
    """Which model requests go to the gateway during training (DESIGN.md, "Routing")."""

    models: tuple[str, ...] = ()
    """Names of the models that are the policy; empty: all."""
    passthrough: tuple[str, ...] = ()
    """Names of models that go where the agent sent them (a judge): untouched, recorded as context."""

    def goes_to_gateway(self, model: str) -> bool:
        """Whether a chat, completion or responses request to this model is the policy's."""
        return model not in self.passthrough and (not self.models or model in self.models)


@dataclass(eq=False)
class Scope:
    """The rollout that the code at hand works for, and what it has captured so far. A place, equal to no other."""

    rollout_id: str
    attempt: int
    server_url: str | None
    """The Leyden server, without /v1; None: nowhere to send (the scope only collects)."""
    key: str | None
    """The rollout's key."""
    gateway: bool = True
    """False: tracing; requests go where the agent sent them, and the adapter records the payload too."""
    routing: Routing = Routing()
    call_ids: list[str] = field(default_factory=list[str])
    """Calls whose records the store must have before the rollout counts as complete, in the order made."""
    losses: list[str] = field(default_factory=list[str])
    """Captures that failed; each one makes the rollout incomplete."""
    closed: bool = False


scope_variable: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("leyden_scope", default=None)
_process_scope: Scope | None = None


def set_process_scope(scope: Scope | None) -> None:
    """Make `scope` the one for all code of this process that has no other (one rollout per process)."""
    global _process_scope
    _process_scope = scope


def current_scope() -> Scope | None:
    """The scope of the running code: its own, else the process's, else None."""
    return scope_variable.get() or _process_scope


@contextmanager
def enter_scope(scope: Scope) -> Generator[Scope]:
    """Run the block for `scope`; at its end the scope is closed, also for threads that still hold it."""
    token = scope_variable.set(scope)
    try:
        yield scope
    finally:
        scope.closed = True
        scope_variable.reset(token)
