"""What a backend with Leyden's own loop does: serve a policy, update it, keep it. Rows, credit, weights are shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from leyden.types import Endpoint
from leyden_trainer.config import TrainConfig
from leyden_trainer.demonstrations import Demonstration
from leyden_trainer.rows import RowScores, TrainingRow

__all__ = ["BEFORE_WARM_START", "Backend", "StepStats"]

BEFORE_WARM_START = -1
"""The version of the base model's weights in a run that has a warm start; 0 are those that RL begins with."""


@dataclass(frozen=True)
class StepStats:
    """What the updates of one step saw. Means are over the trained tokens of the whole step, and over its epochs."""

    loss: float
    """The policy's."""
    value_loss: float
    """The critic's; 0 without one."""
    grad_norm: float
    """The policy's, before clipping; the mean over the step's updates."""
    entropy: float
    """Nats."""
    kl: float
    """Estimate of the divergence from the old policy; 0 on-policy in a step of one update, but for float noise."""
    reference_kl: float
    """Estimate of the divergence from the start model; 0 without a KL term."""
    clip_fraction: float
    mismatch: float
    """Largest |log probability that a row was given - the trainer's| of a trained token of the first update."""
    trained_tokens: int
    """In one epoch."""
    computed_tokens: int
    """Tokens that went through the model; a shared prefix counts once."""


class Backend(Protocol):
    """A policy that is served and trained. Its server runs from before the loop until after it."""

    def endpoint(self, version: int) -> Endpoint:
        """Where the policy is served, with its weights' version."""
        ...

    async def warm_start(self, demonstrations: Sequence[Demonstration], config: TrainConfig) -> list[float]:
        """Learn from demonstrations as `config.warm_start` says, keep the result, and serve it as version 0; sampling
        waits. Returns the loss of each update; [] if the result was found, from before the run was resumed."""
        ...

    async def score(self, rows: Sequence[TrainingRow]) -> list[RowScores]:
        """Log probabilities, and the critic's values if there is one, by the weights before the step; sampling waits.
        What the rows say of advantages, weights and targets is not read."""
        ...

    async def update(self, rows: Sequence[TrainingRow]) -> StepStats:
        """One step on all rows; sampling waits. `TrainingStopped` if the mismatch is over its limit."""
        ...

    async def save_state(self, state: dict[str, Any]) -> None:
        """Write weights, optimiser, random states and `state` as one atomic record."""
        ...

    async def save_checkpoint(self, name: str) -> None:
        """Write a model that transformers loads to checkpoints/`name`, replacing the one before it whole."""
        ...
