from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden_trainer.config import LossConfig
from leyden_trainer.credit import Advantage
from leyden_trainer.loss import Tokens, policy_loss
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


def flat(advantages: dict[str, float]) -> dict[str, Advantage]:
    return {call_id: Advantage(value, "") for call_id, value in advantages.items()}


def weights(aggregate: Aggregate, constant: float = 1.0) -> list[list[float]]:
    rows = training_rows(TWO, flat(ADVANTAGES), aggregate=aggregate, constant=constant)
    return [[w for w, kept in zip(row.weights, row.mask, strict=True) if kept] for row in rows]


def test_the_weights_are_those_worked_out_by_hand() -> None:
    assert weights("token_mean") == [[0.25, 0.25, 0.25], [0.25]]
    assert weights("call_mean") == [[1 / 6, 1 / 6, 1 / 3], [1 / 3]]
    assert weights("rollout_mean") == [[1 / 6, 1 / 6, 1 / 6], [1 / 2]]
    assert weights("constant", 10.0) == [[0.1, 0.1, 0.1], [0.1]]


def test_advantages_lie_on_the_tokens_of_their_call_and_nowhere_else() -> None:
    first, second = training_rows(TWO, flat(ADVANTAGES))
    assert first.advantages == (0.0, 1.0, 1.0, 0.0, 2.0)
    assert second.advantages == (0.0, 0.0, -1.0)


def test_a_call_without_an_advantage_is_context() -> None:
    (row,) = training_rows(TWO, flat({"b": 2.0}))
    assert row.mask == (False, False, False, False, True)
    assert row.weights[4] == 1.0
    assert row.logprobs == (0.0, 0.0, 0.0, 0.0, -0.5)


def gradient(rows: Sequence[TrainingRow], batches: int, padding: int, settings: LossConfig) -> torch.Tensor:
    """Of a bigram model, over so many micro-batches, with padding at the end of each row."""
    table = torch.linspace(-1, 1, 64).reshape(8, 8).clone().requires_grad_()
    for number in range(batches):
        for row in rows[number::batches]:
            ids = torch.tensor([*row.token_ids, *[0] * padding]) % 8
            mask = torch.tensor([*row.mask, *[False] * padding])[1:]
            outcomes = table[ids[:-1]].log_softmax(-1)
            logprobs = outcomes.gather(-1, ids[1:, None])[:, 0]
            old_N, advantages_N, weights_N = (
                torch.tensor([*values, *[0.0] * padding])[1:][mask]
                for values in (row.logprobs, row.advantages, row.weights)
            )
            sequences_N = torch.tensor([n for n, (start, stop) in enumerate(row.spans) for _ in range(start, stop)])
            entropies_N = -(outcomes.exp() * outcomes).sum(-1)[mask]
            given = (logprobs[mask], old_N, advantages_N, weights_N, sequences_N, torch.full_like(old_N, -2.0))
            loss, _ = policy_loss(Tokens(*given, entropies_N=entropies_N), settings)
            loss.backward()
    assert table.grad is not None
    return table.grad


OBJECTIVES = [
    LossConfig(objective=name, kl=kl, kl_estimator=estimator, entropy=entropy)
    for name in ("ppo", "gspo", "cispo")
    for kl, estimator, entropy in ((0.0, "k3", 0.0), (0.5, "k1", 0.1), (0.5, "k2", 0.0), (0.5, "k3", 0.1))
]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.floats(-2, 2)), min_size=1, max_size=5),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from(OBJECTIVES),
    st.sampled_from(["token_mean", "call_mean", "rollout_mean", "constant"]),
)
def test_the_gradient_does_not_depend_on_how_a_rollout_is_cut(
    turns: list[tuple[int, int, float]], batches: int, padding: int, config: LossConfig, aggregate: Aggregate
) -> None:
    """Two answers may follow each other without context between them: only their spans tell them apart."""
    length, spans = 1, []
    for number, (context, sampled, _) in enumerate(turns):
        spans.append((str(number), length + context, length + context + sampled))
        length += context + sampled
    advantages = flat({str(number): advantage for number, (_, _, advantage) in enumerate(turns)})
    whole = training_rows([transition("r", *spans, length=length)], advantages, aggregate=aggregate)
    cut = training_rows([transition("r", span, length=span[2]) for span in spans], advantages, aggregate=aggregate)
    total = sum(map(sum, (row.weights for row in cut)))
    assert total == pytest.approx(sum(map(sum, (row.weights for row in whole))))
    torch.testing.assert_close(gradient(cut, batches, padding, config), gradient(whole, 1, 0, config))
