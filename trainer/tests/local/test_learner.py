import dataclasses
import random
from itertools import pairwise

import pytest
import torch

from leyden.errors import BadInput, TrainingStopped
from leyden_trainer.config import LossConfig
from leyden_trainer.local.learner import Learner, LearnerConfig
from leyden_trainer.local.model import load_model
from leyden_trainer.local.parameters import train_parameters
from leyden_trainer.local.sampler import SampleRequest
from leyden_trainer.local.score import micro_batches
from leyden_trainer.loss import Tokens, policy_loss
from leyden_trainer.rows import TrainingRow, minibatches

ANY_MISMATCH = 1e9


def random_rows(count: int, *, seed: int = 0, shared: int = 20, groups: int = 4, spans: int = 1) -> list[TrainingRow]:
    """Rows in groups with the same prompt, each with `spans` trained spans between which it is given tokens."""
    rng = random.Random(seed)
    system = [rng.randrange(3, 500) for _ in range(shared)]
    prompts = [system + [rng.randrange(3, 500) for _ in range(rng.randint(1, 12))] for _ in range(groups)]
    return [_random_row(f"r{index}", prompts[index % groups], spans, rng) for index in range(count)]


def _random_row(name: str, prompt: list[int], spans: int, rng: random.Random) -> TrainingRow:
    tokens, mask = list(prompt), [False] * len(prompt)
    for span in range(spans):
        given, trained = rng.randint(1, 5) if span else 0, rng.randint(1, 8)
        mask += [False] * given + [True] * trained
        tokens += [rng.randrange(3, 500) for _ in range(given + trained)]
    edges = [place for place in range(1, len(mask)) if mask[place] != mask[place - 1]]
    starts, ends = edges[::2], [*edges[1::2], len(mask)]
    given = rng.randint(0, 3)
    tokens, mask = tokens + [5] * given, mask + [False] * given
    advantage, weight = rng.uniform(-1, 1), rng.uniform(0.01, 0.1)
    return TrainingRow(
        rollout_id=name,
        token_ids=tuple(tokens),
        mask=tuple(mask),
        logprobs=tuple(rng.uniform(-7, -5) if trained else 0.0 for trained in mask),
        advantages=tuple(advantage if trained else 0.0 for trained in mask),
        weights=tuple(weight if trained else 0.0 for trained in mask),
        spans=tuple(zip(starts, ends, strict=True)),
    )


def of_trained(values, row: TrainingRow) -> torch.Tensor:
    return torch.tensor([value for value, trained in zip(values, row.mask, strict=True) if trained])


def plain_logprobs(model, row: TrainingRow, temperature: float = 1.0) -> torch.Tensor:
    """Of the trained tokens, by one ordinary forward pass over this row alone."""
    logits = model(input_ids=torch.tensor([row.token_ids])).logits[0].float() / temperature
    logprobs = torch.log_softmax(logits, -1)
    return torch.stack([logprobs[t - 1, row.token_ids[t]] for t, trained in enumerate(row.mask) if trained])


def learner(model, **changes) -> Learner:
    loss = LossConfig(**{name: changes.pop(name) for name in list(changes) if name in LossConfig.model_fields})
    config = LearnerConfig(**{"learning_rate": 1e-3, "max_mismatch": ANY_MISMATCH, **changes}, loss=loss)
    return Learner(model, train_parameters(model), config)


def logprobs_of(tested: Learner, rows: list[TrainingRow]) -> list[list[float]]:
    """Of the trained tokens of each row, by the learner."""
    return [of_trained(found.logprobs, row).tolist() for found, row in zip(tested.score(rows), rows, strict=True)]


def gradient(parameters) -> torch.Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in parameters])


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("spans", [1, 3])
@pytest.mark.parametrize("shared", [0, 20])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_equal_those_of_a_plain_forward_pass(model, spans, shared, temperature):
    rows = random_rows(13, spans=spans, shared=shared)
    found = logprobs_of(learner(model, temperature=temperature), rows)
    for row, logprobs in zip(rows, found, strict=True):
        with torch.no_grad():
            assert logprobs == pytest.approx(plain_logprobs(model, row, temperature).tolist(), abs=1e-4)


def plain_loss(model, row: TrainingRow, loss: LossConfig, reference_N: torch.Tensor | None) -> torch.Tensor:
    """The row's term by one ordinary forward pass over it alone."""
    outcomes = torch.log_softmax(model(input_ids=torch.tensor([row.token_ids])).logits[0], -1)
    entropies = -(outcomes.exp() * outcomes).sum(-1)
    tokens = Tokens(
        logprobs_N=plain_logprobs(model, row),
        old_logprobs_N=of_trained(row.logprobs, row),
        advantages_N=of_trained(row.advantages, row),
        weights_N=of_trained(row.weights, row),
        sequences_N=torch.tensor([n for n, (start, stop) in enumerate(row.spans) for _ in range(start, stop)]),
        reference_logprobs_N=reference_N,
        entropies_N=torch.stack([entropies[t - 1] for t, trained in enumerate(row.mask) if trained]),
    )
    return policy_loss(tokens, loss)[0]


LOSSES = [
    {},
    {"kl": 0.5},
    {"kl": 0.5, "kl_estimator": "k1", "entropy": 0.2},
    {"objective": "gspo", "clip_low": 0.9, "clip_high": 9.0},
    {"objective": "cispo", "entropy": 0.2},
    {"dual_clip": 2.0, "kl": 0.1, "kl_estimator": "k2"},
]


@pytest.mark.parametrize("spans", [1, 3])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: "-".join(map(str, loss.values())) or "ppo")
@pytest.mark.parametrize("micro_batch_tokens", [1, 150, 100_000])
def test_the_gradient_equals_that_of_a_plain_loop_over_rows(tiny_folder, model, spans, loss, micro_batch_tokens):
    reference, _ = load_model(tiny_folder, device=torch.device("cpu"))
    rows = random_rows(13, spans=spans)
    tested = learner(model, **loss, micro_batch_tokens=micro_batch_tokens, max_grad_norm=1e9, learning_rate=1e-9)
    with torch.no_grad():  # away from the reference, or the KL term has no gradient
        for parameter in model.parameters():
            parameter.mul_(1.05)
    for row in rows:
        with torch.no_grad():
            reference_N = plain_logprobs(reference, row) if loss.get("kl") else None
        plain_loss(model, row, LossConfig(**loss), reference_N).backward()
    expected = gradient(tested.parameters.values())
    stats = tested.step(rows)
    assert relative_error(gradient(tested.parameters.values()), expected) < 1e-4
    assert stats.grad_norm == pytest.approx(expected.norm().item(), rel=1e-4)
    assert stats.trained_tokens == sum(sum(row.mask) for row in rows)


def test_minibatches_are_the_steps_gradient_estimated_from_some_rollouts(tiny_folder):
    """At a learning rate of nearly 0 their mean is the gradient of the whole step; epochs repeat it."""
    rows = random_rows(12, spans=2)
    model, _ = load_model(tiny_folder, device=torch.device("cpu"))
    whole = learner(model, learning_rate=1e-12, max_grad_norm=1e9)
    stats = whole.step(rows)
    expected = gradient(whole.parameters.values())
    total, norms = torch.zeros_like(expected), []
    parts = learner(model, learning_rate=1e-12, max_grad_norm=1e9, minibatches=3)
    for part in minibatches(rows, 3, "0 0 0"):
        whole.step(part)
        total += gradient(whole.parameters.values())
        norms.append(3 * gradient(whole.parameters.values()).norm().item())
    assert relative_error(total, expected) < 1e-4
    dealt = parts.step(rows)
    assert dealt.grad_norm == pytest.approx(sum(norms) / 3, rel=1e-4)
    assert (dealt.loss, dealt.trained_tokens) == (pytest.approx(stats.loss, rel=1e-4), stats.trained_tokens)
    twice = learner(model, learning_rate=1e-12, max_grad_norm=1e9, epochs=2).step(rows)
    assert (twice.loss, twice.trained_tokens) == (pytest.approx(stats.loss, rel=1e-4), stats.trained_tokens)
    assert twice.entropy == pytest.approx(stats.entropy, rel=1e-4)


def test_later_updates_of_a_step_are_held_near_the_policy_that_sampled(model):
    rows = random_rows(12, spans=2)
    tested = learner(model)
    rows = [_with_logprobs(row, found) for row, found in zip(rows, logprobs_of(tested, rows), strict=True)]
    stats = learner(model, max_mismatch=1e-3, minibatches=3, epochs=3).step(rows)
    assert stats.mismatch < 1e-3  # the first update's; the others have moved
    assert stats.kl > 1e-4
    assert 0 < stats.clip_fraction < 1


def test_gspo_refuses_rows_whose_answers_are_not_known(model):
    row = dataclasses.replace(random_rows(1)[0], spans=())
    with pytest.raises(BadInput, match="the spans of a row of rollout r0 are not its trained tokens; gspo needs them"):
        learner(model, objective="gspo").step([row])


def test_a_step_does_not_depend_on_the_size_of_its_micro_batches(tiny_folder):
    after = []
    for micro_batch_tokens in (1, 200, 100_000):
        model, _ = load_model(tiny_folder, device=torch.device("cpu"))
        stats = learner(model, micro_batch_tokens=micro_batch_tokens).step(random_rows(24, spans=2))
        after.append((stats.loss, stats.grad_norm, stats.entropy, stats.mismatch))
    assert after[0] == pytest.approx(after[1], rel=1e-4)
    assert after[0] == pytest.approx(after[2], rel=1e-4)


def test_shared_prompts_are_computed_once(model):
    rows = random_rows(16, groups=2, shared=100)
    stats = learner(model).step(rows)
    prompts = {row.token_ids[: row.mask.index(True)] for row in rows}
    assert stats.computed_tokens == 100 + sum(len(prompt) - 100 for prompt in prompts) + sum(
        sum(row.mask) - 1 for row in rows
    )


def test_rows_that_begin_with_other_rows_cost_only_what_is_new(model):
    """A conversation's second call as a row of its own, and two rollouts that said the same."""
    first, other = random_rows(2, groups=1)
    ended = dataclasses.replace(first, token_ids=(*first.token_ids, 9), mask=(*first.mask, True))
    ended = dataclasses.replace(
        ended, logprobs=(*first.logprobs, -6.0), advantages=(*first.advantages, 1.0), weights=(*first.weights, 0.1)
    )
    tested = learner(model, learning_rate=1e-9)
    alone = tested.step([ended]).computed_tokens
    assert alone == len(first.token_ids)
    twins = tested.step([first, ended, dataclasses.replace(ended, rollout_id="twin")])
    assert twins.computed_tokens == alone
    assert twins.trained_tokens == 3 * sum(first.mask) + 2
    shared = first.mask.index(True)
    assert tested.step([ended, other]).computed_tokens <= alone + len(other.token_ids) - shared


def test_micro_batches_hold_every_row_once_and_keep_rows_of_a_prompt_together(model):
    rows = random_rows(30, groups=3)
    batches = list(micro_batches(rows, 60))
    assert len(batches) > 2
    assert sorted(row.rollout_id for batch in batches for row in batch) == sorted(row.rollout_id for row in rows)
    order = [row.token_ids[: row.mask.index(True)] for batch in batches for row in batch]
    assert sum(a != b for a, b in pairwise(order)) == 2


def test_the_sampler_and_the_learner_agree(model, sampler):
    prompts = [(5, 6, 7) * 5 + (n,) for n in range(10, 14)] * 4
    requests = [SampleRequest(p, 12, seed=i, stop_ids=frozenset({2})) for i, p in enumerate(prompts)]
    samples = [future.result(timeout=120) for future in sampler.submit(requests)]
    sampler.pause()
    rows = [
        TrainingRow(
            rollout_id=f"r{index}",
            token_ids=prompt + sample.token_ids,
            mask=(False,) * len(prompt) + (True,) * len(sample.token_ids),
            logprobs=(0.0,) * len(prompt) + sample.logprobs,
            advantages=(0.0,) * len(prompt) + (1.0 if index % 2 else -1.0,) * len(sample.token_ids),
            weights=(0.0,) * len(prompt) + (0.01,) * len(sample.token_ids),
        )
        for index, (prompt, sample) in enumerate(zip(prompts, samples, strict=True))
    ]
    stats = learner(model, max_mismatch=1e-4).step(rows)
    assert 0 < stats.mismatch < 1e-4
    assert stats.clip_fraction == 0


def test_a_mismatch_stops_before_the_weights_change(model):
    rows = random_rows(4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TrainingStopped, match=r"rollout r\d.*max_mismatch = 0.001"):
        learner(model, max_mismatch=1e-3).step(rows)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_logprob_that_is_no_number_is_a_mismatch(model):
    broken = dataclasses.replace(random_rows(1)[0], logprobs=(float("nan"),) * len(random_rows(1)[0].mask))
    with pytest.raises(TrainingStopped, match="inf"):
        learner(model).step([broken])


def test_rows_without_advantage_are_left_out(model):
    rows = random_rows(6)
    idle = [dataclasses.replace(row, rollout_id="idle", advantages=(0.0,) * len(row.mask)) for row in rows]
    with_idle = learner(model, learning_rate=1e-12).step(rows + idle)
    without = learner(model, learning_rate=1e-12).step(rows)
    assert with_idle.trained_tokens == without.trained_tokens
    assert with_idle.grad_norm == pytest.approx(without.grad_norm, rel=1e-5)


def test_rows_without_advantage_are_held_to_the_start_model_by_the_kl_term(model):
    rows = [dataclasses.replace(row, advantages=(0.0,) * len(row.mask)) for row in random_rows(3)]
    tested = learner(model, kl=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    stats = tested.step(rows)
    assert stats.trained_tokens == sum(sum(row.mask) for row in rows)
    assert stats.grad_norm > 0


def test_a_step_with_nothing_to_learn_changes_nothing(model):
    rows = [dataclasses.replace(row, advantages=(0.0,) * len(row.mask)) for row in random_rows(3)]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert learner(model).step(rows).trained_tokens == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_rewarded_tokens_become_likelier_and_punished_ones_less(model):
    good, bad = (
        dataclasses.replace(row, advantages=tuple(sign * float(m) for m in row.mask))
        for row, sign in zip(random_rows(2), (1.0, -1.0), strict=True)
    )
    tested = learner(model)
    before = [sum(logprobs) for logprobs in logprobs_of(tested, [good, bad])]
    for _ in range(3):
        current = logprobs_of(tested, [good, bad])
        rows = [_with_logprobs(row, values) for row, values in zip((good, bad), current, strict=True)]
        tested.step(rows)
    after = [sum(logprobs) for logprobs in logprobs_of(tested, [good, bad])]
    assert after[0] > before[0]
    assert after[1] < before[1]


def _with_logprobs(row: TrainingRow, values: list[float]) -> TrainingRow:
    left = iter(values)
    return dataclasses.replace(row, logprobs=tuple(next(left) if trained else 0.0 for trained in row.mask))


def test_the_learning_rate_warms_up(tiny_folder):
    moved = []
    for warmup_steps in (0, 4):
        model, _ = load_model(tiny_folder, device=torch.device("cpu"))
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        learner(model, warmup_steps=warmup_steps).step(random_rows(4))
        moved.append((torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm().item())
    assert moved[1] == pytest.approx(moved[0] / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("mask", "message"), [((False, False, False), "no trained token"), ((True, False, False), "first token")]
)
def test_rows_that_cannot_be_trained_are_refused(model, mask, message):
    row = TrainingRow("r9", (3, 4, 5), mask, (0.0,) * 3, (1.0,) * 3, (1.0,) * 3)
    with pytest.raises(BadInput, match=rf"r9.*{message}"):
        learner(model).step([row])
