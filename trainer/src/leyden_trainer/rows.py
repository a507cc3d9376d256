"""One training row: what a backend needs of a transition, and nothing else. Plain tuples, no torch."""

from dataclasses import dataclass

__all__ = ["TrainingRow"]


@dataclass(frozen=True)
class TrainingRow:
    """Token t of a row is trained if mask[t]; its term in the step's loss is weights[t] * loss_t(advantages[t]).

    All tuples have the length T of the row. Where mask is False the other numbers are 0 and mean nothing.
    The weights of one optimiser step already hold the normalisation (DESIGN.md, invariant 4): a backend sums, it never
    divides by a row, a micro-batch or a worker count.
    """

    rollout_id: str
    token_ids: tuple[int, ...]
    mask: tuple[bool, ...]
    logprobs: tuple[float, ...]
    """The sampler's, natural logarithm."""
    advantages: tuple[float, ...]
    weights: tuple[float, ...]
