"""Objectives, divergences and the loss against numbers worked out by hand; torch only."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.errors import BadConfig
from leyden_trainer.config import LossConfig, load_config
from leyden_trainer.divergence import ESTIMATORS, k1, k2, k3
from leyden_trainer.loss import LossStats, Tokens, policy_loss, value_loss
from leyden_trainer.objectives import Bounds, cispo, gspo, ppo

NARROW = Bounds(0.2, 0.2)
ALONE = torch.arange(8)


def ratios(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).log().requires_grad_()


def gradient(terms_N: torch.Tensor, logs_N: torch.Tensor) -> list[float]:
    (found_N,) = torch.autograd.grad(terms_N.sum(), logs_N, retain_graph=True)
    return found_N.tolist()


def test_ppo_clips_a_ratio_only_where_it_would_gain() -> None:
    # 1.5 with advantage 2 is cut to 1.2; 0.5 with -1 to 0.8; 1.5 with -1 and 0.5 with 2 are costs, and stay.
    logs_N = ratios(1.5, 0.5, 1.5, 0.5)
    terms_N, clipped_N = ppo(logs_N, torch.tensor([2.0, -1.0, -1.0, 2.0]), ALONE[:4], NARROW)
    assert terms_N.tolist() == pytest.approx([-2.4, 0.8, 1.5, -1.0])
    assert clipped_N.tolist() == [True, True, False, False]
    # d(-r A)/d log r = -r A
    assert gradient(terms_N, logs_N) == pytest.approx([0.0, 0.0, 1.5, -1.0])


def test_bounds_may_differ_as_in_dapo() -> None:
    logs_N = ratios(1.25, 1.25, 0.7)
    terms_N, clipped_N = ppo(logs_N, torch.tensor([1.0, -1.0, -1.0]), ALONE[:3], Bounds(0.2, 0.28))
    assert terms_N.tolist() == pytest.approx([-1.25, 1.25, 0.8])
    assert clipped_N.tolist() == [False, False, True]


def test_dual_clip_bounds_the_cost_of_a_bad_token_that_became_likelier() -> None:
    # 5 * 2 = 10 is over 3 * 2; 2 * 2 = 4 is not; a good token is not touched.
    logs_N = ratios(5.0, 2.0, 1.1)
    terms_N, clipped_N = ppo(logs_N, torch.tensor([-2.0, -2.0, 1.0]), ALONE[:3], Bounds(0.2, 0.2, dual=3.0))
    assert terms_N.tolist() == pytest.approx([6.0, 4.0, -1.1])
    assert clipped_N.tolist() == [True, False, False]
    assert gradient(terms_N, logs_N) == pytest.approx([0.0, 4.0, -1.1])


def test_gspo_gives_every_token_the_geometric_mean_of_its_answers_ratios() -> None:
    # First answer: sqrt(2 * 0.5) = 1, although ppo would cut the 2. Second: cube root of 8 * 1 * 1 = 2, cut to 1.2.
    logs_N = ratios(2.0, 0.5, 8.0, 1.0, 1.0)
    advantages_N = torch.tensor([3.0, 3.0, 1.0, 1.0, 1.0])
    terms_N, clipped_N = gspo(logs_N, advantages_N, torch.tensor([0, 0, 1, 1, 1]), NARROW)
    assert terms_N.tolist() == pytest.approx([-3.0, -3.0, -1.2, -1.2, -1.2])
    assert clipped_N.tolist() == [False, False, True, True, True]
    assert gradient(terms_N, logs_N) == pytest.approx([-3.0, -3.0, 0.0, 0.0, 0.0])


def test_gspo_has_the_gradient_of_the_papers_sequence_form() -> None:
    """-mean over answers of min(s A, clip(s) A), s = exp(mean log ratio) differentiated through, by autograd."""
    logs_N = ratios(1.1, 0.9, 1.05, 1.4, 1.3)
    answers = [(slice(0, 3), 1.5), (slice(3, 5), -2.0)]
    whole = torch.zeros((), dtype=torch.float64)
    for tokens, advantage in answers:
        ratio = logs_N[tokens].mean().exp()
        whole = whole - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) / len(answers)
    (expected_N,) = torch.autograd.grad(whole, logs_N)
    advantages_N = torch.tensor([1.5, 1.5, 1.5, -2.0, -2.0])
    call_mean_N = torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 4, 1 / 4])
    terms_N, _ = gspo(logs_N, advantages_N, torch.tensor([0, 0, 0, 1, 1]), NARROW)
    assert (call_mean_N * terms_N).sum().item() == pytest.approx(whole.item())
    assert gradient(call_mean_N * terms_N, logs_N) == pytest.approx(expected_N.tolist())


def test_cispo_clips_the_weight_and_keeps_every_gradient() -> None:
    # -sg(clip(r)) A d log π: 1.5 becomes 1.2, 0.5 becomes 0.8, 1.1 stays.
    logs_N = ratios(1.5, 0.5, 1.1)
    terms_N, clipped_N = cispo(logs_N, torch.tensor([2.0, -1.0, 3.0]), ALONE[:3], NARROW)
    assert clipped_N.tolist() == [True, True, False]
    assert gradient(terms_N, logs_N) == pytest.approx([-2.4, 0.8, -3.3])


def test_cispo_without_a_lower_bound() -> None:
    logs_N = ratios(0.01)
    terms_N, _ = cispo(logs_N, torch.tensor([1.0]), ALONE[:1], Bounds(1.0, 0.2))
    assert gradient(terms_N, logs_N) == pytest.approx([-0.01])


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-2, 2)), min_size=1, max_size=8), st.floats(0, 5))
def test_every_objective_is_positively_homogeneous_in_the_advantage(
    tokens: list[tuple[float, float]], factor: float
) -> None:
    logs_N, advantages_N = torch.tensor(tokens, dtype=torch.float64).T
    sequences_N = torch.arange(len(tokens)) // 3
    for objective in (ppo, gspo, cispo):
        for bounds in (NARROW, Bounds(0.2, 0.3, dual=3.0)):
            one_N, _ = objective(logs_N, advantages_N, sequences_N, bounds)
            many_N, _ = objective(logs_N, factor * advantages_N, sequences_N, bounds)
            torch.testing.assert_close(many_N, factor * one_N)


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8))
def test_on_policy_every_objective_has_the_policy_gradient(advantages: list[float]) -> None:
    for objective in (ppo, gspo, cispo):
        logs_N = torch.zeros(len(advantages), requires_grad=True)
        terms_N, clipped_N = objective(logs_N, torch.tensor(advantages), torch.arange(len(advantages)) // 2, NARROW)
        assert gradient(terms_N, logs_N) == pytest.approx([-a for a in advantages], abs=1e-6)
        assert not clipped_N.any()


def test_the_estimators_of_the_divergence_are_those_worked_out_by_hand() -> None:
    # log(π/ref) = 0.5
    ours_N, reference_N = torch.tensor([-1.0]).requires_grad_(), torch.tensor([-1.5])
    expected = {"k1": (0.5, 0.5), "k2": (0.125, 0.5), "k3": (math.exp(-0.5) - 0.5, 1 - math.exp(-0.5))}
    for name, (value, slope) in expected.items():
        found_N = ESTIMATORS[name](ours_N, reference_N)
        assert found_N.item() == pytest.approx(value)
        assert gradient(found_N, ours_N) == pytest.approx([slope])


def test_the_estimators_means_and_their_gradients_are_what_their_docstrings_say() -> None:
    """Over every outcome of a small distribution, weighed by its probability, against the exact divergences."""
    logits = torch.tensor([0.3, -1.2, 0.8, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.9, 0.2, -0.4, 0.0], dtype=torch.float64).log_softmax(-1)
    policy = logits.log_softmax(-1)
    probability = policy.exp().detach()
    forward, backward = (policy.exp() * (policy - reference)).sum(), (reference.exp() * (reference - policy)).sum()
    (to_forward,), (to_backward,) = (torch.autograd.grad(kl, logits, retain_graph=True) for kl in (forward, backward))
    for estimator, unbiased, expected in ((k1, True, to_forward), (k2, False, to_forward), (k3, True, to_backward)):
        mean = (probability * estimator(policy, reference)).sum()
        assert (mean.item() == pytest.approx(forward.item())) is unbiased
        (found,) = torch.autograd.grad(mean, logits, retain_graph=True)
        torch.testing.assert_close(found, expected)


def loss(config: LossConfig, logs_N: torch.Tensor, advantages: list[float], weights: list[float], **more: torch.Tensor):
    zeros_N = torch.zeros(len(advantages), dtype=torch.float64)
    given = (zeros_N, torch.tensor(advantages), torch.tensor(weights), ALONE[: len(advantages)])
    return policy_loss(Tokens(logs_N, *given, **more), config)


def test_the_loss_is_the_one_worked_out_by_hand() -> None:
    # ratios 1.5 (clipped to 1.2 as the advantage is positive), 0.5 (clipped to 0.8: negative), 1 (free)
    logs_N = ratios(1.5, 0.5, 1.0)
    total, stats = loss(LossConfig(), logs_N, [2.0, -1.0, 3.0], [0.5, 0.25, 0.25])
    assert total.item() == pytest.approx(-(0.5 * 1.2 * 2.0) + 0.25 * 0.8 - 0.25 * 3.0)
    assert gradient(total, logs_N) == pytest.approx([0.0, 0.0, -0.75])
    # k3 from the old policy: r - 1 - log r
    expected = (0.5 - math.log(1.5)) + (-0.5 - math.log(0.5))
    assert stats == LossStats(3, 2, pytest.approx(expected), 0.0, pytest.approx(3.0))


def test_the_kl_term_is_weighed_by_its_coefficient_and_counted() -> None:
    for name, value in (("k1", 0.5), ("k2", 0.125), ("k3", math.exp(-0.5) - 0.5)):
        logs_N = torch.tensor([-1.0], requires_grad=True)
        settings_ = LossConfig(kl=2.0, kl_estimator=name)  # type: ignore[arg-type]
        total, stats = loss(settings_, logs_N, [0.0], [0.25], reference_logprobs_N=torch.tensor([-1.5]))
        assert total.item() == pytest.approx(0.25 * 2.0 * value)
        assert stats.reference_kl == pytest.approx(value)
    with pytest.raises(ValueError, match="needs reference_logprobs_N"):
        loss(LossConfig(kl=1.0), logs_N, [0.0], [1.0])


def test_the_entropy_bonus_is_taken_from_the_loss() -> None:
    entropies_N = torch.tensor([0.5, 0.7], requires_grad=True)
    total, _ = loss(LossConfig(entropy=0.1), ratios(1.0, 1.0), [0.0, 0.0], [0.5, 0.5], entropies_N=entropies_N)
    assert total.item() == pytest.approx(-0.1 * 0.5 * (0.5 + 0.7))
    assert gradient(total, entropies_N) == pytest.approx([-0.05, -0.05])
    with pytest.raises(ValueError, match="needs entropies_N"):
        loss(LossConfig(entropy=0.1), ratios(1.0), [0.0], [1.0])


def test_the_value_loss_is_the_one_worked_out_by_hand() -> None:
    values_N = torch.tensor([1.0, 0.0, 2.0], requires_grad=True)
    returns_N, weights_N = torch.tensor([2.0, 1.0, 2.0]), torch.tensor([0.5, 0.25, 0.25])
    old_N = torch.tensor([0.5, 0.0, 0.0])
    total = value_loss(values_N, returns_N, weights_N, old_values_N=old_N, clip=None)
    assert total.item() == pytest.approx((0.5 * 1 + 0.25 * 1 + 0.25 * 0) / 2)
    # Clipped by 0.2: 0.7, 0.0 and 0.2, so errors 1.69, 1 and 3.24; those that the clip decides have no gradient.
    total = value_loss(values_N, returns_N, weights_N, old_values_N=old_N, clip=0.2)
    assert total.item() == pytest.approx((0.5 * 1.69 + 0.25 * 1 + 0.25 * 3.24) / 2)
    assert gradient(total, values_N) == pytest.approx([0.0, -0.25, 0.0])


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 4), min_size=2, max_size=9), st.lists(st.integers(0, 9), max_size=3))
def test_parts_of_a_step_add_up_to_the_step(values: list[float], cuts: list[int]) -> None:
    """Whole answers in each part, as rows are; gspo's are three tokens each."""
    logs_N, number = ratios(*values), len(values)
    edges = sorted({0, number, *(3 * (cut % (number // 3 + 1)) for cut in cuts)})
    for name in ("ppo", "gspo", "cispo"):
        config = LossConfig(objective=name, kl=0.3, entropy=0.2)  # type: ignore[arg-type]
        tokens = [logs_N, -logs_N.detach(), logs_N.detach().sin(), torch.full((number,), 1 / number)]
        tokens += [torch.arange(number) // 3, logs_N.detach() - 0.2, logs_N * 2]
        whole, _ = policy_loss(Tokens(*tokens), config)
        parts = [[tensor[start:stop] for tensor in tokens] for start, stop in pairwise(edges)]
        for part in parts:
            part[4] = part[4] - part[4][0]
        total = torch.stack([policy_loss(Tokens(*part), config)[0] for part in parts]).sum()
        torch.testing.assert_close(total, whole)
        assert gradient(total, logs_N) == pytest.approx(gradient(whole, logs_N))


def test_settings_that_do_not_go_together_are_refused(tmp_path) -> None:
    path = tmp_path / "train.toml"
    path.write_text(
        '[model]\npath="m"\n[agent]\nfunction="a.py:f"\n[reward]\nfunction="r.py:f"\n'
        '[tasks]\ntrain="t.jsonl"\nheldout="h.jsonl"\n'
    )
    with pytest.raises(BadConfig, match='importance_cap needs old_logprobs = "trainer"'):
        load_config(path, ["--loss.importance_cap=2"])
    with pytest.raises(BadConfig, match='dual_clip belongs to objective = "ppo", got gspo'):
        load_config(path, ["--loss.objective=gspo", "--loss.dual_clip=3"])
    with pytest.raises(BadConfig, match="max_mean_mismatch needs loss"):
        load_config(path, ["--trainer.max_mean_mismatch=0.1"])
    assert load_config(path, ["--loss.importance_cap=2", "--loss.old_logprobs=trainer"]).loss.importance_cap == 2
