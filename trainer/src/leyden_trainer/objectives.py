"""The clipped objectives by name: what each trained token adds to the loss for its advantage, before its weight.

Unlike the papers', nothing is averaged here: the weights do that. Each is positively homogeneous in the advantage, so
an importance weight may be folded into it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["OBJECTIVES", "Bounds", "Objective", "cispo", "gspo", "ppo"]


@dataclass(frozen=True)
class Bounds:
    """The ratio is kept in [1 - low, 1 + high]; they may differ (clip-higher, DAPO, arXiv:2503.14476)."""

    low: float
    high: float
    dual: float | None = None
    """PPO only: a token of negative advantage adds at most `dual` * |advantage| (arXiv:1912.09729); more than 1."""


Objective = Callable[[Tensor, Tensor, Tensor, Bounds], tuple[Tensor, Tensor]]
"""(log_ratio_N with gradient, advantages_N, sequences_N int64, bounds) → (terms_N, clipped_N bool).

log_ratio_N is log(policy / old policy). sequences_N numbers the call's answer that a token belongs to, from 0; an
answer is whole in one row, so its tokens are always given together."""


def ppo(log_ratio_N: Tensor, advantages_N: Tensor, sequences_N: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """-min(r A, clip(r) A) for each token: PPO (arXiv:1707.06347), with dual clip if `bounds.dual` is set."""
    terms_N, clipped_N = _pessimistic(log_ratio_N.exp(), advantages_N, bounds)
    if bounds.dual is None:
        return terms_N, clipped_N
    most_N = -bounds.dual * advantages_N
    capped_N = (advantages_N < 0) & (terms_N > most_N)
    return torch.where(capped_N, most_N, terms_N), clipped_N | capped_N


def gspo(log_ratio_N: Tensor, advantages_N: Tensor, sequences_N: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """-min(s A, clip(s) A) with s the geometric mean of the ratios of a call's answer: GSPO (arXiv:2507.18071).

    In the paper's token form (equation 13): each token has the value s, and the gradient of its own log probability, so
    that advantages may differ within an answer. Where they do not, it is the sequence form with the token's weight in
    the place of 1/|y|; the paper's mean over answers is `loss.aggregate = "call_mean"`.
    """
    detached_N = log_ratio_N.detach()
    sums_S = detached_N.new_zeros(int(sequences_N.max()) + 1 if len(sequences_N) else 0)
    counts_S = torch.zeros_like(sums_S).index_add_(0, sequences_N, torch.ones_like(detached_N))
    means_S = sums_S.index_add_(0, sequences_N, detached_N) / counts_S
    return _pessimistic((means_S[sequences_N] + log_ratio_N - detached_N).exp(), advantages_N, bounds)


def cispo(log_ratio_N: Tensor, advantages_N: Tensor, sequences_N: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """-sg(clip(r)) A log π: CISPO (arXiv:2506.13585). The weight is clipped, and every token keeps its gradient.

    The paper sets no lower bound: `loss.clip_low = 1`.
    """
    ratio_N = log_ratio_N.detach().exp()
    bounded_N = ratio_N.clamp(1 - bounds.low, 1 + bounds.high)
    # log π up to a constant without gradient, so that the value is 0 on-policy.
    return -bounded_N * advantages_N * log_ratio_N, bounded_N != ratio_N


OBJECTIVES: dict[str, Objective] = {"ppo": ppo, "gspo": gspo, "cispo": cispo}


def _pessimistic(ratio_N: Tensor, advantages_N: Tensor, bounds: Bounds) -> tuple[Tensor, Tensor]:
    free_N = ratio_N * advantages_N
    bounded_N = ratio_N.clamp(1 - bounds.low, 1 + bounds.high) * advantages_N
    return -torch.minimum(free_N, bounded_N), bounded_N < free_N
