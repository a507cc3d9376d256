"""From a batch to rows: what a critic says and learns, which log probabilities the ratio has, when training stops."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.errors import BadInput, TrainingStopped
from leyden.types import Attempt, Call, Choice, Reward, Rollout, Structure
from leyden_trainer.assignment import assigned, call_values, explained_variance
from leyden_trainer.config import TrainConfig
from leyden_trainer.credit import Advantage, CallValues, CreditMethod, assign, credit_method, valued, view
from leyden_trainer.experience import Member
from leyden_trainer.local.backend import LocalBackend
from leyden_trainer.rows import RowScores, ValueTarget
from leyden_trainer.transitions import Span, Transition, transitions
from leyden_trainer.weights import training_rows

ROW = Transition(
    "r",
    (1,) * 7,
    (False, True, True, False, True, True, True),
    (0.0,) * 7,
    (0,) * 7,
    (Span("a", 0, 1, 3), Span("b", 0, 4, 7)),
)
VALUES = {"a": CallValues((0.1, 0.2), 5.0), "b": CallValues((0.3, 0.4, 0.5), 6.0)}


def test_values_are_found_by_call_and_token() -> None:
    low, high = (0.0, 0.1, 0.2, 0.0, 0.3, 0.4, 0.5), (0.0, 5.0, 5.1, 0.0, 6.0, 6.1, 6.2)
    assert call_values([ROW], [RowScores((0.0,) * 7, (low, high))]) == VALUES
    assert call_values([ROW], [RowScores((0.0,) * 7, (low,))])["a"] == CallValues((0.1, 0.2))


def test_the_values_of_several_choices_follow_each_other() -> None:
    second = Transition("r", (1, 2), (False, True), (0.0,) * 2, (0,) * 2, (Span("a", 1, 1, 2),))
    first = Transition("r", (1, 3, 4), (False, True, True), (0.0,) * 3, (0,) * 3, (Span("a", 0, 1, 3),))
    scores = [RowScores((0.0,) * 2, ((0.0, 0.9),)), RowScores((0.0,) * 3, ((0.0, 0.7, 0.8),))]
    assert call_values([second, first], scores) == {"a": CallValues((0.7, 0.8, 0.9))}
    given_ = {"a": Advantage(0.0, "", tokens=(1.0, 2.0, 3.0), returns=(4.0, 5.0, 6.0))}
    rows = training_rows([second, first], given_, values={"a": CallValues((0.7, 0.8, 0.9))})
    assert [row.advantages for row in rows] == [(0.0, 3.0), (0.0, 1.0, 2.0)]
    assert [[t.target for t in row.targets] for row in rows] == [[6.0], [4.0, 5.0]]


def test_tokens_get_their_advantages_and_heads_their_targets() -> None:
    advantages = {
        "a": Advantage(0.5, "", tokens=(0.2, 0.8), returns=(1.0, 2.0)),
        "b": Advantage(-1.0, "", returns=(3.0,), high_return=7.0),
    }
    (row,) = training_rows([ROW], advantages, values=VALUES)
    assert row.advantages == (0.0, 0.2, 0.8, 0.0, -1.0, -1.0, -1.0)
    # Three targets of the low head and one of the high one: 1/3 each, and 1.
    assert row.targets == (
        ValueTarget(1, 0, 1.0, 0.1, pytest.approx(1 / 3)),
        ValueTarget(2, 0, 2.0, 0.2, pytest.approx(1 / 3)),
        ValueTarget(4, 0, 3.0, 0.3, pytest.approx(1 / 3)),
        ValueTarget(4, 1, 7.0, 6.0, 1.0),
    )
    # Returns 1, 2, 3, 7: mean 3.25, variance 5.1875. What is left: 0.9, 1.8, 2.7, 1.0: mean 1.6, variance 0.525.
    assert explained_variance([row]) == pytest.approx(1 - 0.525 / 5.1875)
    assert explained_variance(training_rows([ROW], {"a": Advantage(0.5, "")})) is None


def test_numbers_that_do_not_fit_the_tokens_are_refused() -> None:
    with pytest.raises(BadInput, match="call a has 3 advantages for its 2 sampled tokens"):
        training_rows([ROW], {"a": Advantage(0.0, "", tokens=(1.0, 2.0, 3.0))})
    with pytest.raises(BadInput, match="call a has a return for a high head, and its critic has none"):
        training_rows([ROW], {"a": Advantage(0.0, "", high_return=1.0)}, values={"a": CallValues((0.1, 0.2))})


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=1, max_size=5))
def test_targets_do_not_depend_on_how_a_rollout_is_cut(turns: list[tuple[int, int]]) -> None:
    length, spans = 1, []
    for number, (context, sampled) in enumerate(turns):
        spans.append(Span(str(number), 0, length + context, length + context + sampled))
        length += context + sampled
    sizes = {span.call_id: span.stop - span.start for span in spans}
    advantages = {
        k: Advantage(1.0, "", tokens=tuple(range(n)), returns=tuple(range(n)), high_return=2.0)
        for k, n in sizes.items()
    }
    values = {k: CallValues((0.5,) * n, 0.25) for k, n in sizes.items()}

    def of(*chosen: Span) -> Transition:
        size = chosen[-1].stop
        mask = tuple(any(s.start <= place < s.stop for s in chosen) for place in range(size))
        return Transition("r", (1,) * size, mask, (0.0,) * size, (0,) * size, chosen)

    whole = training_rows([of(*spans)], advantages, values=values)
    cut = training_rows([of(span) for span in spans], advantages, values=values)
    assert [t for row in cut for t in row.targets] == [t for row in whole for t in row.targets]
    assert sum(t.weight for row in whole for t in row.targets) == pytest.approx(2.0)


def configured(folder: Path, **sections: Any) -> TrainConfig:
    needed = {
        "model": {"path": str(folder), "device": "cpu"},
        "agent": {"function": "a.py:f"},
        "reward": {"function": "a.py:g"},
        "tasks": {"train": "t", "heldout": "h"},
    }
    return TrainConfig.model_validate({**needed, **sections})


@pytest.fixture
def backend(tiny_folder: Path, tmp_path: Path) -> Iterator[LocalBackend]:
    config = configured(tiny_folder, optimizer={"learning_rate": 1e-3, "warmup_steps": 0})
    backend = LocalBackend.prepare(config, tmp_path, cache=tmp_path, heads=2)
    yield backend
    backend.sampler.close()


def call(
    rollout_id: str, number: int, prompt: tuple[int, ...], answer: tuple[int, ...], logprobs: Any, agent: str
) -> Call:
    choice = Choice(message={}, token_ids=answer, logprobs=logprobs)
    attempt = Attempt(
        number=0, status="ok", started_at=0, latency_ms=0, version=0, prompt_token_ids=prompt, choices=(choice,)
    )
    name, structure = f"{rollout_id}{number}", Structure(agent=(agent,))
    return Call(id=name, rollout_id=rollout_id, started_at=number, attempts=(attempt,), structure=structure)


async def group(backend: LocalBackend, *, off: float = 0.0) -> list[Member]:
    """Two rollouts of a writer's and a checker's call; the recorded log probabilities are the trainer's minus `off`."""
    members = []
    for rollout_id, reward, word in (("a", 1.0, 20), ("b", 0.0, 30)):
        calls: list[Call] = []
        for number, agent in enumerate(("writer", "checker")):
            prompt, answer = (5, 6, 7, number), (word, word + 1 + number)
            blank = call(rollout_id, number, prompt, answer, (-1.0, -1.0), agent)
            rows = training_rows(transitions(rollout_id, [blank], max_tokens=None), {blank.id: Advantage(0.0, "")})
            (score,) = await backend.score(rows)
            exact = tuple(value - off for value in score.logprobs[-2:])
            calls.append(call(rollout_id, number, prompt, answer, exact, agent))
        rows = transitions(rollout_id, calls, max_tokens=None)
        rewards = (Reward(rollout_id=rollout_id, value=reward),)
        members.append(Member(Rollout(id=rollout_id), tuple(calls), rewards, tuple(rows), ()))
    return members


async def learn(
    backend: LocalBackend, members: list[Member], method: CreditMethod, folder: Path, **sections: Any
) -> Any:
    return await assigned([members], configured(folder, **sections), method, {}, backend)


@pytest.mark.parametrize("name", ["ppo", "turn_ppo", "multi_level_gae", "hae"])
async def test_a_method_with_a_critic_gets_its_values_and_gives_it_targets(
    backend: LocalBackend, tiny_folder: Path, name: str
) -> None:
    critic = backend.learner.critic
    assert critic is not None
    critic.heads.bias.data[:] = critic.heads.bias.new_tensor([0.25, 0.5])  # a value that only the critic can have given
    members, method = await group(backend), credit_method(name)
    found = await learn(backend, members, method, tiny_folder)
    views = [view(m.rollout, m.calls, m.rewards) for m in members]
    values = {c.id: CallValues((0.25, 0.25), 0.5) for v in views for c in v.calls}
    expected, _ = assign(method, [[valued(v, values) for v in views]])
    assert set(found.advantages) == set(expected)
    for call_id, advantage in expected.items():
        assert found.advantages[call_id].value == pytest.approx(advantage.value)
        assert found.advantages[call_id].returns == pytest.approx(advantage.returns)
    stats = await backend.update(found.rows)
    assert stats.value_loss > 0
    assert found.mismatch < 1e-5
    assert found.importance is None


async def test_only_the_chosen_agents_teach_the_policy_and_the_critic(backend: LocalBackend, tiny_folder: Path) -> None:
    found = await learn(backend, await group(backend), credit_method("ppo", agents=["writer"]), tiny_folder)
    assert set(found.advantages) == {"a0", "b0"}
    assert [row.token_ids[3] for row in found.rows] == [0, 0]  # the writer's prompts
    assert sum(len(row.targets) for row in found.rows) == 4


async def test_the_samplers_log_probabilities_are_the_ratios_denominator_unless_told_otherwise(
    backend: LocalBackend, tiny_folder: Path
) -> None:
    members, method = await group(backend, off=0.5), credit_method("broadcast")
    plain = await learn(backend, members, method, tiny_folder)
    recorded = [choice.logprobs for m in members for c in m.calls for a in c.attempts for choice in a.choices]
    assert [row.logprobs[-2:] for row in plain.rows] == recorded
    assert (plain.importance, plain.mismatch) == (None, None)
    with pytest.raises(TrainingStopped, match=r"sampler and trainer disagree by 0\.5"):
        await backend.update(plain.rows)
    loose = {"max_mismatch": 1.0}
    ours = await learn(backend, members, method, tiny_folder, loss={"old_logprobs": "trainer"}, trainer=loose)
    assert [row.logprobs[-1] for row in ours.rows] == pytest.approx(
        [row.logprobs[-1] + 0.5 for row in plain.rows], abs=1e-4
    )
    assert [row.advantages for row in ours.rows] == [row.advantages for row in plain.rows]
    assert (ours.importance.mean, ours.importance.capped) == (1.0, 0.0)
    stats = await backend.update(ours.rows)
    assert stats.kl == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("cap", "weight", "capped"), [(2.0, 1.6487213, 0.0), (1.25, 1.25, 1.0)])
async def test_truncated_importance_weights_multiply_the_advantages(
    backend: LocalBackend, tiny_folder: Path, cap: float, weight: float, capped: float
) -> None:
    """trainer / sampler is exp(0.5) = 1.6487 for every token."""
    members, method = await group(backend, off=0.5), credit_method("broadcast")
    plain = await learn(backend, members, method, tiny_folder)
    loss = {"old_logprobs": "trainer", "importance_cap": cap}
    found = await learn(backend, members, method, tiny_folder, loss=loss, trainer={"max_mismatch": 1.0})
    for mine, theirs in zip(found.rows, plain.rows, strict=True):
        assert mine.advantages == pytest.approx([weight * a for a in theirs.advantages], rel=1e-4)
        assert mine.weights == theirs.weights
    assert (found.importance.mean, found.importance.capped) == (pytest.approx(weight, rel=1e-4), capped)


@pytest.mark.parametrize("sections", [{"trainer": {"minibatches": 2}}, {"loss": {"old_logprobs": "trainer"}}])
async def test_a_mismatch_of_any_token_stops_before_the_first_of_several_updates(
    backend: LocalBackend, tiny_folder: Path, sections: dict[str, Any]
) -> None:
    with pytest.raises(
        TrainingStopped, match=r"disagree by 0\.5 .* rollout [ab], more than trainer\.max_mismatch = 0\.001"
    ):
        await learn(backend, await group(backend, off=0.5), credit_method("broadcast"), tiny_folder, **sections)


@pytest.mark.parametrize(("most", "stops"), [(0.4, True), (0.6, False)])
async def test_a_mean_mismatch_stops_where_single_tokens_may_differ_by_more(
    backend: LocalBackend, tiny_folder: Path, most: float, stops: bool
) -> None:
    sections = {"loss": {"old_logprobs": "trainer"}, "trainer": {"max_mismatch": 20.0, "max_mean_mismatch": most}}
    learning = learn(backend, await group(backend, off=0.5), credit_method("broadcast"), tiny_folder, **sections)
    if stops:
        with pytest.raises(TrainingStopped, match=r"by 0\.5 on average .* more than trainer\.max_mean_mismatch = 0\.4"):
            await learning
    else:
        assert (await learning).mismatch == pytest.approx(0.5, abs=1e-4)
