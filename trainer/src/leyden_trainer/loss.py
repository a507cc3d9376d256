"""The policy loss over flat tensors of trained tokens: PPO's clipped surrogate, and KL to the start model if asked for.

Unlike the textbook's, nothing is averaged here: each token brings its weight, so micro-batches add up to the step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LossStats", "policy_loss"]


@dataclass(frozen=True)
class LossStats:
    """Sums over the tokens given; divide by the step's number of tokens for means."""

    num_tokens: int
    clipped: float
    """Tokens whose gradient the clip took away."""
    kl: float
    """Σ (r - 1 - log r) with r the ratio to the sampling policy: the k3 estimator."""
    ratio: float


def policy_loss(
    logprobs_N: Tensor,
    old_logprobs_N: Tensor,
    advantages_N: Tensor,
    weights_N: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    reference_logprobs_N: Tensor | None = None,
    kl: float = 0.0,
) -> tuple[Tensor, LossStats]:
    """Σ weight · (clipped surrogate + kl · k3), PPO (arXiv:1707.06347) with bounds that may differ (DAPO, 2503.14476).

    Args:
        logprobs_N: under the policy being trained, with gradient; float, shape (N,).
        old_logprobs_N: under the policy that sampled; shape (N,).
        advantages_N: shape (N,).
        weights_N: shape (N,); they hold all normalisation.
        clip_low: the ratio's lower bound is 1 - clip_low.
        clip_high: its upper bound is 1 + clip_high.
        reference_logprobs_N: under the start model; needed when kl > 0.
        kl: coefficient of the k3 estimate of KL(policy || start model) (Schulman 2020, as in GRPO, arXiv:2402.03300).

    Returns:
        The loss, a scalar with gradient, and sums for the step's figures.
    """
    log_ratio_N = logprobs_N - old_logprobs_N
    ratio_N = log_ratio_N.exp()
    free_N = ratio_N * advantages_N
    bounded_N = ratio_N.clamp(1 - clip_low, 1 + clip_high) * advantages_N
    terms_N = -torch.minimum(free_N, bounded_N)
    if kl:
        if reference_logprobs_N is None:
            raise ValueError("kl > 0 needs reference_logprobs_N")
        to_reference_N = reference_logprobs_N - logprobs_N
        terms_N = terms_N + kl * (to_reference_N.exp() - 1 - to_reference_N)
    with torch.no_grad():
        stats = LossStats(
            num_tokens=ratio_N.numel(),
            clipped=float((bounded_N < free_N).sum()),
            kl=float((ratio_N - 1 - log_ratio_N).sum()),
            ratio=float(ratio_N.sum()),
        )
    return (weights_N * terms_N).sum(), stats
