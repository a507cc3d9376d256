"""Leyden's objectives as policy losses of verl's registry: "leyden_ppo", "leyden_gspo", "leyden_cispo".

verl averages by its own modes; here `rollout_is_weights` carries each token's weight in the whole step, so that rows,
micro-batches and workers change nothing (DESIGN.md, invariant 4). The KL term and the entropy bonus are verl's own,
whose "token-mean" counts the tokens of the whole step too.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import register_policy_loss

from leyden_trainer.divergence import k3
from leyden_trainer.objectives import OBJECTIVES, Bounds, Objective

__all__ = ["NO_CLIP", "loss_mode"]

NO_CLIP = 1e30
"""No dual clip (`clip_ratio_c`): verl has no None for it."""

PolicyLoss = Callable[..., tuple[Tensor, dict[str, float]]]


def loss_mode(objective: str) -> str:
    """The name under which verl knows an objective of Leyden's."""
    return f"leyden_{objective}"


def _weighted(objective: Objective) -> PolicyLoss:
    def loss(
        *,
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        loss_agg_mode: str,
        config: Any,
        rollout_is_weights: Tensor | None,
    ) -> tuple[Tensor, dict[str, float]]:
        """verl's signature; all tensors (B, T), right-padded. verl divides by the workers: we multiply before."""
        if rollout_is_weights is None:
            raise ValueError("rows came without token weights: they were not written by Leyden's trainer")
        mask = response_mask.bool()
        if not mask.any():
            return log_prob.sum() * 0.0, {"actor/clip_fraction": 0.0, "actor/ppo_kl": 0.0}
        dual = config.clip_ratio_c if config.clip_ratio_c < NO_CLIP else None
        bounds = Bounds(config.clip_ratio_low, config.clip_ratio_high, dual)
        log_ratio_N = log_prob[mask] - old_log_prob[mask]
        terms_N, clipped_N = objective(log_ratio_N, advantages[mask], _answers(mask)[mask], bounds)
        total = (rollout_is_weights[mask] * terms_N).sum() * config.global_batch_info["dp_size"]
        with torch.no_grad():
            kl = float(k3(old_log_prob[mask], log_prob[mask]).mean())
        return total, {"actor/clip_fraction": float(clipped_N.float().mean()), "actor/ppo_kl": kl}

    return loss


for _name, _objective in OBJECTIVES.items():
    register_policy_loss(loss_mode(_name))(_weighted(_objective))


def _answers(mask: Tensor) -> Tensor:
    """(B, T) int64: numbers the runs of trained tokens from 0. Between two answers of a row there is context."""
    begins = mask.clone()
    begins[:, 1:] &= ~mask[:, :-1]
    return begins.flatten().long().cumsum(0).view_as(mask) - 1
