"""The policy loss and its gradient equal verl's, token by token, on random log probabilities and advantages."""

import pytest
import torch
from torch import Tensor
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig

from leyden_trainer.loss import policy_loss

SHAPE = (5, 7)


def made(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(logprobs, old, reference, advantages, mask), float64, shape (B, T); ratios from 0.3 to 3."""
    noise = torch.Generator().manual_seed(seed)
    old, change, other, advantages = (torch.randn(SHAPE, generator=noise, dtype=torch.float64) for _ in range(4))
    old = -old.abs()
    lengths = torch.randint(1, SHAPE[1] + 1, (SHAPE[0], 1), generator=noise)
    mask = (torch.arange(SHAPE[1]) < lengths).double()
    return (old + change.clamp(-1, 1)).requires_grad_(), old, old + 0.3 * other, advantages, mask


def ours(seed: int, *, clip_low: float, clip_high: float, kl: float = 0.0) -> tuple[float, Tensor]:
    """(loss, gradient by log probability); the mean over all trained tokens."""
    logprobs, old, reference, advantages, mask = made(seed)
    chosen = mask.bool()
    loss, _ = policy_loss(
        logprobs[chosen],
        old[chosen],
        advantages[chosen],
        torch.full((int(mask.sum()),), 1.0 / float(mask.sum()), dtype=torch.float64),
        clip_low=clip_low,
        clip_high=clip_high,
        reference_logprobs_N=reference[chosen],
        kl=kl,
    )
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.1, 0.5)])
def test_the_clipped_loss_and_its_gradient_equal_verls(seed: int, low: float, high: float) -> None:
    logprobs, old, _, advantages, mask = made(seed)
    # A clip_ratio_c that no ratio reaches: this loss has no dual clip
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=1e6,
    )
    theirs, _ = core_algos.compute_policy_loss_vanilla(old, logprobs, advantages, mask, "token-mean", config)
    theirs.backward()
    mine, gradient = ours(seed, clip_low=low, clip_high=high)
    assert mine == pytest.approx(theirs.item(), abs=1e-6)
    torch.testing.assert_close(gradient, logprobs.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_kl_term_equals_verls_k3(seed: int) -> None:
    logprobs, _, reference, _, mask = made(seed)
    theirs = core_algos.agg_loss(core_algos.kl_penalty(logprobs, reference, "k3"), mask, "token-mean")
    theirs.backward()
    with_kl, gradient = ours(seed, clip_low=0.2, clip_high=0.2, kl=0.7)
    without, plain = ours(seed, clip_low=0.2, clip_high=0.2)
    assert with_kl - without == pytest.approx(0.7 * theirs.item(), abs=1e-6)
    torch.testing.assert_close(gradient - plain, 0.7 * logprobs.grad, rtol=0, atol=1e-6)
