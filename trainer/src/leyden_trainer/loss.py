"""The policy loss over flat tensors of trained tokens: an objective, and if asked for a KL term and an entropy bonus.

Unlike the textbook's, nothing is averaged here: each token brings its weight, so micro-batches add up to the step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from leyden_trainer.config import LossConfig
from leyden_trainer.divergence import ESTIMATORS, k3
from leyden_trainer.objectives import OBJECTIVES, Bounds

__all__ = ["LossStats", "Tokens", "policy_loss", "value_loss"]


@dataclass(frozen=True)
class Tokens:
    """Trained tokens, flat; every tensor has shape (N,)."""

    logprobs_N: Tensor
    """Under the policy being trained, with gradient; float."""
    old_logprobs_N: Tensor
    """Under the policy that sampled, or the one before this step's updates (`loss.old_logprobs`)."""
    advantages_N: Tensor
    weights_N: Tensor
    """They hold all normalisation."""
    sequences_N: Tensor
    """int64, from 0: which call's answer the token belongs to; used by `gspo`."""
    reference_logprobs_N: Tensor | None = None
    """Under the start model; needed when loss.kl > 0."""
    entropies_N: Tensor | None = None
    """Of the distribution that the token was drawn from, with gradient; needed when loss.entropy > 0."""


@dataclass(frozen=True)
class LossStats:
    """Sums over the tokens given; divide by the step's number of tokens for means."""

    num_tokens: int
    clipped: float
    """Tokens whose gradient the clip took away; with `cispo`, those whose weight it changed."""
    kl: float
    """From the old policy, by the k3 estimator."""
    reference_kl: float
    """From the start model, by the estimator that the loss uses; 0 without a KL term."""
    ratio: float


def policy_loss(tokens: Tokens, settings: LossConfig) -> tuple[Tensor, LossStats]:
    """Σ weight · (objective + kl · divergence from the start model - entropy · entropy).

    Returns:
        The loss, a scalar with gradient, and sums for the step's figures.
    """
    log_ratio_N = tokens.logprobs_N - tokens.old_logprobs_N
    bounds = Bounds(settings.clip_low, settings.clip_high, settings.dual_clip)
    terms_N, clipped_N = OBJECTIVES[settings.objective](log_ratio_N, tokens.advantages_N, tokens.sequences_N, bounds)
    reference_kl = 0.0
    if settings.kl:
        if tokens.reference_logprobs_N is None:
            raise ValueError("loss.kl > 0 needs reference_logprobs_N")
        divergence_N = ESTIMATORS[settings.kl_estimator](tokens.logprobs_N, tokens.reference_logprobs_N)
        terms_N = terms_N + settings.kl * divergence_N
        reference_kl = divergence_N.sum().item()
    if settings.entropy:
        if tokens.entropies_N is None:
            raise ValueError("loss.entropy > 0 needs entropies_N")
        terms_N = terms_N - settings.entropy * tokens.entropies_N
    with torch.no_grad():
        stats = LossStats(
            num_tokens=log_ratio_N.numel(),
            clipped=float(clipped_N.sum()),
            # Seen from the old policy, whose samples these are: KL(old || policy).
            kl=float(k3(tokens.old_logprobs_N, tokens.logprobs_N).sum()),
            reference_kl=reference_kl,
            ratio=float(log_ratio_N.exp().sum()),
        )
    return (tokens.weights_N * terms_N).sum(), stats


def value_loss(
    values_N: Tensor, returns_N: Tensor, weights_N: Tensor, *, old_values_N: Tensor, clip: float | None
) -> Tensor:
    """Σ weight · (value - return)² / 2, a scalar with gradient.

    Args:
        values_N: of the critic being trained, with gradient; shape (N,).
        returns_N: what they should be; shape (N,).
        weights_N: shape (N,); they hold all normalisation.
        old_values_N: of the critic before this step's updates; shape (N,).
        clip: the larger of the loss and that of a value at most `clip` away from the old one (PPO's code,
            arXiv:2005.12729); None does not clip.
    """
    errors_N = (values_N - returns_N).square()
    if clip is not None:
        near_N = old_values_N + (values_N - old_values_N).clamp(-clip, clip)
        errors_N = torch.maximum(errors_N, (near_N - returns_N).square())
    return (weights_N * errors_N).sum() / 2
