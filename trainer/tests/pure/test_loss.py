import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden_trainer.loss import policy_loss
from leyden_trainer.rows import TrainingRow
from leyden_trainer.transitions import Span, Transition
from leyden_trainer.weights import Aggregate, training_rows


def transition(rollout_id: str, *spans: tuple[str, int, int], length: int) -> Transition:
    mask = [False] * length
    for _, start, stop in spans:
        mask[start:stop] = [True] * (stop - start)
    return Transition(
        rollout_id,
        tuple(range(length)),
        tuple(mask),
        tuple(-0.5 if kept else 0.0 for kept in mask),
        tuple(1 if kept else None for kept in mask),
        tuple(Span(call_id, 0, start, stop) for call_id, start, stop in spans),
    )


TWO = [transition("r", ("a", 1, 3), ("b", 4, 5), length=5), transition("s", ("c", 2, 3), length=3)]
ADVANTAGES = {"a": 1.0, "b": 2.0, "c": -1.0}


def weights(aggregate: Aggregate, constant: float = 1.0) -> list[list[float]]:
    rows = training_rows(TWO, ADVANTAGES, aggregate=aggregate, constant=constant)
    return [[w for w, kept in zip(row.weights, row.mask, strict=True) if kept] for row in rows]


def test_the_weights_are_those_worked_out_by_hand() -> None:
    assert weights("token_mean") == [[0.25, 0.25, 0.25], [0.25]]
    assert weights("call_mean") == [[1 / 6, 1 / 6, 1 / 3], [1 / 3]]
    assert weights("rollout_mean") == [[1 / 6, 1 / 6, 1 / 6], [1 / 2]]
    assert weights("constant", 10.0) == [[0.1, 0.1, 0.1], [0.1]]


def test_advantages_lie_on_the_tokens_of_their_call_and_nowhere_else() -> None:
    first, second = training_rows(TWO, ADVANTAGES)
    assert first.advantages == (0.0, 1.0, 1.0, 0.0, 2.0)
    assert second.advantages == (0.0, 0.0, -1.0)


def test_a_call_without_an_advantage_is_context() -> None:
    (row,) = training_rows(TWO, {"b": 2.0})
    assert row.mask == (False, False, False, False, True)
    assert row.weights[4] == 1.0
    assert row.logprobs == (0.0, 0.0, 0.0, 0.0, -0.5)


def test_the_loss_is_the_one_worked_out_by_hand() -> None:
    # ratios 1.5 (clipped to 1.2 as the advantage is positive), 0.5 (clipped to 0.8: negative), 1 (free)
    logprobs_N = torch.tensor([1.5, 0.5, 1.0]).log().requires_grad_()
    loss, stats = policy_loss(
        logprobs_N,
        torch.zeros(3),
        torch.tensor([2.0, -1.0, 3.0]),
        torch.tensor([0.5, 0.25, 0.25]),
        clip_low=0.2,
        clip_high=0.2,
    )
    assert loss.item() == pytest.approx(-(0.5 * 1.2 * 2.0) + 0.25 * 0.8 - 0.25 * 3.0)
    assert stats.clipped == 2
    loss.backward()
    assert logprobs_N.grad is not None
    assert logprobs_N.grad.tolist() == pytest.approx([0.0, 0.0, -0.75])


def test_the_divergence_from_the_start_model_is_k3() -> None:
    logprobs_N = torch.tensor([-1.0]).requires_grad_()
    zeros_N = torch.zeros(1)
    loss, _ = policy_loss(
        logprobs_N,
        torch.tensor([-1.0]),
        zeros_N,
        torch.ones(1),
        clip_low=0.2,
        clip_high=0.2,
        reference_logprobs_N=torch.tensor([-1.5]),
        kl=2.0,
    )
    assert loss.item() == pytest.approx(2.0 * (math.exp(-0.5) - 1 + 0.5))


def gradient(rows: Sequence[TrainingRow], batches: int, padding: int) -> torch.Tensor:
    """Of a bigram model, over so many micro-batches, with padding at the end of each row."""
    table = torch.linspace(-1, 1, 64).reshape(8, 8).clone().requires_grad_()
    for number in range(batches):
        for row in rows[number::batches]:
            length = len(row.token_ids)
            ids = torch.tensor([*row.token_ids, *[0] * padding]) % 8
            mask = torch.tensor([*row.mask, *[False] * padding])[1:]
            logprobs = table[ids[:-1]].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
            pick = [torch.tensor([*values, *[0.0] * padding])[1:][mask] for values in (row.logprobs, row.advantages)]
            weight_N = torch.tensor([*row.weights, *[0.0] * padding])[1:][mask]
            loss, _ = policy_loss(logprobs[mask], *pick, weight_N, clip_low=0.2, clip_high=0.2)
            loss.backward()
            assert length + padding == len(ids)
    assert table.grad is not None
    return table.grad


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3), st.floats(-2, 2)), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_the_gradient_does_not_depend_on_how_a_rollout_is_cut(
    turns: list[tuple[int, int, float]], batches: int, padding: int
) -> None:
    length, spans = 1, []
    for number, (context, sampled, _) in enumerate(turns):
        spans.append((str(number), length + context, length + context + sampled))
        length += context + sampled
    advantages = {str(number): advantage for number, (_, _, advantage) in enumerate(turns)}
    whole = training_rows([transition("r", *spans, length=length)], advantages)
    cut = training_rows([transition("r", span, length=span[2]) for span in spans], advantages)
    assert sum(map(sum, (row.weights for row in cut))) == pytest.approx(1.0)
    torch.testing.assert_close(gradient(cut, batches, padding), gradient(whole, 1, 0))
