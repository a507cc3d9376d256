"""The critic: exact values over shared prefixes, its own gradient, learning, and going on where it stopped."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from leyden.errors import BadConfig, BadInput, TrainingStopped
from leyden_trainer.config import TrainConfig
from leyden_trainer.local.backend import LocalBackend
from leyden_trainer.local.checkpoint import load_latest, save_state
from leyden_trainer.local.critic import Critic, CriticSettings
from leyden_trainer.local.forward import decoder
from leyden_trainer.local.learner import Learner, LearnerConfig
from leyden_trainer.local.model import load_model
from leyden_trainer.local.parameters import train_parameters
from leyden_trainer.loss import value_loss
from leyden_trainer.rows import TrainingRow, ValueTarget

CPU = torch.device("cpu")
KINDS = ["head", "model"]


def row(name: str, tokens: list[int], trained: range, advantage: float = 0.0) -> TrainingRow:
    mask = tuple(place in trained for place in range(len(tokens)))
    return TrainingRow(
        rollout_id=name,
        token_ids=tuple(tokens),
        mask=mask,
        logprobs=tuple(-6.0 if m else 0.0 for m in mask),
        advantages=tuple(advantage if m else 0.0 for m in mask),
        weights=tuple(0.1 if m else 0.0 for m in mask),
        spans=((trained.start, trained.stop),),
    )


PROMPT = [5, 6, 7, 8, 9, 10, 11]
ROWS = [
    row("a", [*PROMPT, 20, 21, 22], range(7, 10)),
    row("b", [*PROMPT, 30, 31], range(7, 9)),
    row("c", [*PROMPT, 20, 40], range(7, 9)),
    row("d", [3, 4, 50, 51, 52], range(2, 5)),
]


def with_targets(rows: list[TrainingRow], heads: int = 1, value: float = 0.0) -> list[TrainingRow]:
    """Every trained token should be worth the tenth of its id; the high head learns at the first one alone."""
    found = []
    for one in rows:
        places = [place for place, chosen in enumerate(one.mask) if chosen]
        targets = [ValueTarget(place, 0, one.token_ids[place] / 10, value, 0.1) for place in places]
        if heads == 2:
            targets.append(ValueTarget(places[0], 1, -2.0, value, 0.25))
        found.append(dataclasses.replace(one, targets=tuple(targets)))
    return found


def learner(folder: Path, kind: str, *, heads: int = 1, loud: bool = True, **changes) -> Learner:
    """With heads that do not say 0 (`loud`), so that their gradient reaches what is below them."""
    fields = {field.name for field in dataclasses.fields(CriticSettings)} - {"learning_rate"}
    settings = {name: changes.pop(name) for name in list(changes) if name in fields}
    model, _ = load_model(folder, device=CPU)
    own = load_model(folder, device=CPU)[0] if kind == "model" else None
    rate = changes.pop("critic_rate", 1e-3)
    critic = Critic(CriticSettings(rate, **settings), heads=heads, width=128, device=CPU, model=own)
    if loud:
        torch.manual_seed(1)
        torch.nn.init.normal_(critic.heads.weight, std=0.3)
    config = LearnerConfig(**{"learning_rate": 1e-9, "max_mismatch": 1e9, "max_grad_norm": 1e9, **changes})
    return Learner(model, train_parameters(model), config, critic)


def plain_values(tested: Learner, one: TrainingRow) -> Tensor:
    """[trained, heads] by one ordinary forward pass over this row alone."""
    assert tested.critic is not None
    model = tested.critic.model or tested.model
    hidden = decoder(model)(input_ids=torch.tensor([one.token_ids])).last_hidden_state[0]
    if tested.critic.model is None:
        hidden = hidden.detach()
    return tested.critic.heads(torch.stack([hidden[t - 1] for t, chosen in enumerate(one.mask) if chosen]))


def gradient(parameters) -> Tensor:
    return torch.cat([p.grad.flatten() if p.grad is not None else torch.zeros(p.numel()) for p in parameters])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("micro_batch_tokens", [1, 100_000])
def test_values_equal_those_of_a_plain_forward_pass(tiny_folder, kind, heads, micro_batch_tokens):
    tested = learner(tiny_folder, kind, heads=heads, micro_batch_tokens=micro_batch_tokens)
    for one, found in zip(ROWS, tested.score(ROWS), strict=True):
        expected = plain_values(tested, one).detach().T.tolist()
        assert len(found.values) == heads
        for by_head, wanted in zip(found.values, expected, strict=True):
            assert [v for v, m in zip(by_head, one.mask, strict=True) if m] == pytest.approx(wanted, abs=1e-4)
            assert not any(v for v, m in zip(by_head, one.mask, strict=True) if not m)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("micro_batch_tokens", [1, 100_000])
def test_the_critics_gradient_equals_that_of_a_plain_loop(tiny_folder, kind, clip, micro_batch_tokens):
    rows = with_targets(ROWS, heads=2, value=0.3)
    tested = learner(tiny_folder, kind, heads=2, clip=clip, micro_batch_tokens=micro_batch_tokens, critic_rate=1e-12)
    assert tested.critic is not None
    total = torch.zeros(())
    for one in rows:
        values = plain_values(tested, one)
        first = one.mask.index(True)
        for target in one.targets:
            said, wanted, weight = values[target.place - first, target.head], target.target, target.weight
            numbers = [torch.tensor(number)[None] for number in (wanted, weight, target.value)]
            total = total + value_loss(said[None], numbers[0], numbers[1], old_values_N=numbers[2], clip=clip)
    total.backward()
    expected = gradient(tested.critic.parameters.values())
    stats = tested.step(rows)
    found = gradient(tested.critic.parameters.values())
    assert ((found - expected).norm() / expected.norm()).item() < 1e-4
    assert stats.value_loss == pytest.approx(total.item(), rel=1e-4)


def test_the_policy_learns_from_its_own_loss_alone_unless_the_backbone_is_shared(tiny_folder):
    acting = [dataclasses.replace(one, advantages=tuple(1.0 * m for m in one.mask)) for one in ROWS]
    both = [
        dataclasses.replace(one, advantages=a.advantages) for one, a in zip(with_targets(ROWS), acting, strict=True)
    ]
    norms = {}
    for name, rows, backbone in (("none", acting, 0.0), ("head", both, 0.0), ("half", both, 0.5), ("all", both, 1.0)):
        tested = learner(tiny_folder, "head", backbone=backbone)
        tested.step(rows)
        norms[name] = gradient(tested.parameters.values())
    torch.testing.assert_close(norms["head"], norms["none"])
    assert (norms["all"] - norms["none"]).norm() > 1e-3
    # the share is a factor
    shared, half = norms["all"] - norms["none"], norms["half"] - norms["none"]
    assert (half - shared / 2).norm() < 1e-5 * shared.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_learns_its_targets(tiny_folder, kind):
    tested = learner(tiny_folder, kind, loud=False, critic_rate=1e-2 if kind == "head" else 1e-3)
    before = {name: tensor.clone() for name, tensor in tested.model.state_dict().items()}
    losses = [tested.step(with_targets(ROWS)).value_loss for _ in range(40)]
    assert losses[-1] < losses[0] / 5
    assert all(torch.equal(tensor, before[name]) for name, tensor in tested.model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_critic_goes_on_exactly(tiny_folder, tmp_path, kind):
    steps = {"critic_rate": 1e-2, "learning_rate": 1e-3}
    rows = [dataclasses.replace(one, advantages=tuple(0.5 * m for m in one.mask)) for one in with_targets(ROWS)]
    straight = learner(tiny_folder, kind, **steps)
    straight.step(rows)
    save_state(tmp_path, 1, straight.state(), {"step": 1})
    straight.step(rows)
    resumed = learner(tiny_folder, kind, **steps)
    saved = load_latest(tmp_path, device=CPU)
    assert saved is not None
    resumed.load(saved.learner)
    resumed.step(rows)
    assert [s.values for s in resumed.score(ROWS)] == [s.values for s in straight.score(ROWS)]
    assert [s.logprobs for s in resumed.score(ROWS)] == [s.logprobs for s in straight.score(ROWS)]


def test_a_state_with_another_critic_is_refused(tiny_folder):
    one, two = learner(tiny_folder, "head"), learner(tiny_folder, "head", heads=2)
    none = Learner(one.model, one.parameters, one.config)
    with pytest.raises(TrainingStopped, match="critic is of another form"):
        two.load(one.state())
    for saved, loading in ((none, one), (one, none)):
        with pytest.raises(TrainingStopped, match="differ in having a critic"):
            loading.load(saved.state())


def test_targets_without_a_critic_are_refused(tiny_folder):
    tested = learner(tiny_folder, "head")
    tested.critic = None
    with pytest.raises(BadInput, match="have targets for a critic, and there is none"):
        tested.step(with_targets(ROWS))


def configured(folder: Path, **critic: str) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": {"path": str(folder), "device": "cpu"},
            "agent": {"function": "a.py:f"},
            "reward": {"function": "a.py:g"},
            "tasks": {"train": "t", "heldout": "h"},
            "critic": critic,
        }
    )


@pytest.mark.parametrize("critic", [{}, {"kind": "model"}])
def test_the_backend_loads_the_critic_that_the_method_needs(tiny_folder, tmp_path, critic):
    backend = LocalBackend.prepare(configured(tiny_folder, **critic), tmp_path, cache=tmp_path, heads=2)
    try:
        assert [len(score.values) for score in backend.learner.score(ROWS)] == [2, 2, 2, 2]
        own = backend.learner.critic is not None and backend.learner.critic.model is not None
        assert own is bool(critic)
    finally:
        backend.sampler.close()


def test_a_critic_with_another_vocabulary_is_refused(tiny_folder, tmp_path):
    model, tokenizer = load_model(tiny_folder, device=CPU)
    tokenizer.add_tokens(["something new"])
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    config = configured(tiny_folder, kind="model", path=str(tmp_path / "other"))
    with pytest.raises(BadConfig, match="has another vocabulary"):
        LocalBackend.prepare(config, tmp_path, cache=tmp_path, heads=1)
