"""What a backend with Leyden's own loop does: serve a policy, update it, keep it. Rows, credit, weights are shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from leyden.types import Endpoint
from leyden_trainer.rows import TrainingRow

__all__ = ["Backend", "StepStats"]


@dataclass(frozen=True)
class StepStats:
    """What one update saw. Means are over the trained tokens of the whole step."""

    loss: float
    grad_norm: float
    """Before clipping."""
    entropy: float
    """Nats."""
    kl: float
    """Estimate of the divergence from the sampling policy; 0 on-policy, but for float noise."""
    clip_fraction: float
    mismatch: float
    """Largest |log probability of sampler - of trainer| of a trained token, before the update."""
    trained_tokens: int
    computed_tokens: int
    """Tokens that went through the model; a shared prefix counts once."""


class Backend(Protocol):
    """A policy that is served and trained. Its server runs from before the loop until after it."""

    def endpoint(self, version: int) -> Endpoint:
        """Where the policy is served, with its weights' version."""
        ...

    async def update(self, rows: Sequence[TrainingRow]) -> StepStats:
        """One optimiser step on all rows; sampling waits. `TrainingStopped` if the mismatch is over its limit."""
        ...

    async def save_state(self, state: dict[str, Any]) -> None:
        """Write weights, optimiser, random states and `state` as one atomic record."""
        ...

    async def save_checkpoint(self, name: str) -> None:
        """Write a model that transformers loads to checkpoints/`name`, replacing the one before it whole."""
        ...
