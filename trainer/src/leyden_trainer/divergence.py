"""Estimates, token by token, of the divergence KL(policy || reference) from what the policy sampled (Schulman 2020).

As a loss it is the gradient that counts, and there the three differ from their values; each docstring says how.
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["ESTIMATORS", "k1", "k2", "k3"]


def k1(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """log(π/ref): unbiased, of high variance. Its gradient is that of the same penalty in the reward.

    The plain derivative, ∇log π, has mean 0 and would hold nothing; a penalty in the reward gives log(π/ref) ∇log π,
    whose mean is the gradient of KL(π || ref), and so does this term. It is also the gradient of `k2`.
    """
    log_ratio_N = logprobs_N - reference_logprobs_N
    pulling_N = log_ratio_N.square() / 2
    return log_ratio_N.detach() + pulling_N - pulling_N.detach()


def k2(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """log(π/ref)² / 2: biased, of low variance. The mean of its gradient is the gradient of KL(π || ref)."""
    return (logprobs_N - reference_logprobs_N).square() / 2


def k3(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """ref/π - 1 - log(ref/π): unbiased, never negative; GRPO's term (arXiv:2402.03300).

    The mean of its gradient is the gradient of the other divergence, KL(ref || π).
    """
    log_ratio_N = reference_logprobs_N - logprobs_N
    return torch.expm1(log_ratio_N) - log_ratio_N


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
