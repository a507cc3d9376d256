"""The losses and their gradients equal verl's, token by token, on random log probabilities and advantages."""

from typing import Any

import pytest
import torch
from torch import Tensor
from verl.trainer.ppo import core_algos
from verl.workers.config import ActorConfig

from leyden_trainer.config import LossConfig, make_config
from leyden_trainer.loss import Tokens, policy_loss, value_loss
from leyden_trainer.verl.configuration import verl_config

SHAPE = (5, 7)


def made(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(logprobs, old, reference, advantages, mask), float64, shape (B, T); ratios from 0.3 to 3."""
    noise = torch.Generator().manual_seed(seed)
    old, change, other, advantages = (torch.randn(SHAPE, generator=noise, dtype=torch.float64) for _ in range(4))
    old = -old.abs()
    lengths = torch.randint(1, SHAPE[1] + 1, (SHAPE[0], 1), generator=noise)
    mask = (torch.arange(SHAPE[1]) < lengths).double()
    return (old + change.clamp(-1, 1)).requires_grad_(), old, old + 0.3 * other, advantages, mask


def ours(seed: int, **settings: Any) -> tuple[float, Tensor]:
    """(loss, gradient by log probability); the mean over all trained tokens. A row is one answer."""
    logprobs, old, reference, advantages, mask = made(seed)
    chosen = mask.bool()
    rows = torch.arange(SHAPE[0])[:, None].expand(SHAPE)
    weights = torch.full((int(mask.sum()),), 1.0 / float(mask.sum()), dtype=torch.float64)
    given = (logprobs[chosen], old[chosen], advantages[chosen], weights, rows[chosen])
    loss, _ = policy_loss(Tokens(*given, reference_logprobs_N=reference[chosen]), LossConfig(**settings))
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad


def verls(name: str, seed: int, low: float, high: float, dual: float = 1e6) -> tuple[float, Tensor]:
    """The same by verl. Its vanilla loss always has a dual clip: by default at a ratio that none reaches."""
    logprobs, old, _, advantages, mask = made(seed)
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=dual,
    )
    loss, _ = core_algos.get_policy_loss_fn(name)(old, logprobs, advantages, mask, "token-mean", config)
    loss.backward()
    assert logprobs.grad is not None
    return loss.item(), logprobs.grad


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.1, 0.5)])
@pytest.mark.parametrize(("name", "theirs"), [("ppo", "vanilla"), ("gspo", "gspo")])
def test_the_clipped_losses_and_their_gradients_equal_verls(
    name: str, theirs: str, seed: int, low: float, high: float
) -> None:
    value, expected = verls(theirs, seed, low, high)
    mine, gradient = ours(seed, objective=name, clip_low=low, clip_high=high)
    assert mine == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_gradient_of_cispo_equals_verls(seed: int) -> None:
    """Not the value: verl's has log π where ours has log(π/old), so that ours is 0 on-policy."""
    _, expected = verls("cispo", seed, 0.2, 0.28)
    _, gradient = ours(seed, objective="cispo", clip_low=0.2, clip_high=0.28)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_dual_clip_equals_verls(seed: int) -> None:
    value, expected = verls("vanilla", seed, 0.2, 0.2, dual=1.5)
    mine, gradient = ours(seed, dual_clip=1.5)
    assert mine == pytest.approx(value, abs=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)


@pytest.fixture(scope="module", params=["k1", "k2", "k3"])
def kl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The name of an estimator, and what verl is told to take for it."""
    folder = tmp_path_factory.mktemp("kl")
    values = {
        "model": {"path": "model"},
        "agent": {"function": "agent.py:solve"},
        "reward": {"function": "agent.py:score"},
        "tasks": {"train": "train.jsonl", "heldout": "heldout.jsonl"},
        "loss": {"kl": 0.7, "kl_estimator": request.param},
    }
    config = make_config(values, folder=folder, source="test")
    found = verl_config(config, folder=folder, model=folder, num_heldout=1, on_cpu=True)
    return request.param, found.actor_rollout_ref.actor.kl_loss_type


@pytest.mark.parametrize("seed", range(8))
def test_the_kl_terms_equal_those_that_verl_is_told_to_take(seed: int, kl: tuple[str, str]) -> None:
    """Our k1 has the gradient that verl calls k1+: the plain one's mean is 0."""
    name, theirs = kl
    logprobs, _, reference, _, mask = made(seed)
    expected = core_algos.agg_loss(core_algos.kl_penalty(logprobs, reference, theirs), mask, "token-mean")
    expected.backward()
    with_kl, gradient = ours(seed, kl=0.7, kl_estimator=name)
    without, plain = ours(seed)
    assert with_kl - without == pytest.approx(0.7 * expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient - plain, 0.7 * logprobs.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("clip", [0.2, 1e9])
def test_the_value_loss_equals_verls(seed: int, clip: float) -> None:
    values, old, returns, _, mask = made(seed)
    expected, _ = core_algos.compute_value_loss(values, returns, old, mask, clip, "token-mean")
    expected.backward()
    theirs = values.grad
    again = values.detach().requires_grad_()
    chosen = mask.bool()
    weights = torch.full((int(mask.sum()),), 1.0 / float(mask.sum()), dtype=torch.float64)
    mine = value_loss(again[chosen], returns[chosen], weights, old_values_N=old[chosen], clip=clip)
    mine.backward()
    assert mine.item() == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(again.grad, theirs, rtol=0, atol=1e-6)
