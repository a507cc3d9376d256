"""The same rollouts on verl's FSDP2 worker and on the local learner: the same loss, the same gradient."""

import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden_trainer.config import LossConfig
from leyden_trainer.credit import Advantage
from leyden_trainer.local.critic import Critic, CriticSettings
from leyden_trainer.local.learner import Learner, LearnerConfig
from leyden_trainer.local.model import load_model
from leyden_trainer.local.parameters import train_parameters
from leyden_trainer.rows import TrainingRow, ValueTarget
from leyden_trainer.testing import make_tiny_model
from leyden_trainer.transitions import Span, Transition
from leyden_trainer.verl.critic import TARGETS
from leyden_trainer.verl.fields import fields_of, response_start
from leyden_trainer.verl.scores import critic_columns
from leyden_trainer.weights import training_rows


def rollout(name: str, num_calls: int, rng: random.Random) -> Transition:
    """A conversation of several calls in one row, sampled by something near the untrained model."""
    tokens, mask, spans = [rng.randrange(3, 300) for _ in range(rng.randint(4, 9))], [], []
    mask = [False] * len(tokens)
    for call in range(num_calls):
        start, sampled, given = len(tokens), rng.randint(1, 6), rng.randint(1, 4)
        spans.append(Span(f"{name}-{call}", 0, start, start + sampled))
        tokens += [rng.randrange(3, 300) for _ in range(sampled + given)]
        mask += [True] * sampled + [False] * given
    return Transition(
        rollout_id=name,
        token_ids=tuple(tokens),
        mask=tuple(mask),
        logprobs=tuple(rng.uniform(-6.2, -5.4) if kept else 0.0 for kept in mask),
        versions=tuple(0 if kept else None for kept in mask),
        spans=tuple(spans),
    )


def cut(whole: Transition, pieces: int) -> list[Transition]:
    """The same calls in `pieces` rows: what came before a piece is its context."""
    size = -(-len(whole.spans) // pieces)
    rows: list[Transition] = []
    for start in range(0, len(whole.spans), size):
        spans = whole.spans[start : start + size]
        kept = [any(span.start <= place < span.stop for span in spans) for place in range(spans[-1].stop)]
        rows.append(
            Transition(
                rollout_id=whole.rollout_id,
                token_ids=whole.token_ids[: len(kept)],
                mask=tuple(kept),
                logprobs=tuple(v if k else 0.0 for v, k in zip(whole.logprobs, kept, strict=False)),
                versions=tuple(0 if k else None for k in kept),
                spans=tuple(spans),
            )
        )
    return rows


def local_gradient(model_folder: Path, rows: list[TrainingRow], objective: str) -> tuple[float, torch.Tensor]:
    model, _ = load_model(model_folder, device=torch.device("cpu"))
    config = LearnerConfig(
        learning_rate=1e-3, max_mismatch=1e9, max_grad_norm=1e9, loss=LossConfig(objective=objective)
    )
    stats = Learner(model, train_parameters(model), config).step(rows)
    return stats.loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def actors_rows(rows: list[TrainingRow], transitions: list[Transition]) -> list[dict[str, list[Any]]]:
    """As verl's actor gets them."""
    given = []
    for row, transition in zip(rows, transitions, strict=True):
        start = response_start(transition)
        columns = {"old_log_probs": row.logprobs, "advantages": row.advantages, "rollout_is_weights": row.weights}
        given.append(tokens(transition) | {name: list(column[start:]) for name, column in columns.items()})
    return given


def tokens(transition: Transition) -> dict[str, list[Any]]:
    fields = fields_of(transition, uid="u", reward=0.0, trained=transition.mask)
    names = ("prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask")
    return {name: fields[name].tolist() for name in names}


def verl_gradient(
    folder: Path, model: Path, given: list[dict[str, list[Any]]], *, workers: int, **how: Any
) -> dict[str, Any]:
    """Loss and gradient of rows that are dealt to so many workers; short of a share, zero-mask rows fill up."""
    empty = {name: [torch.zeros_like(torch.tensor(column[0])).tolist()] for name, column in given[0].items()}
    empty |= {"prompts": [2], "responses": [2], "input_ids": [2, 2], "position_ids": [0, 1]}
    given = given + [empty] * (-len(given) % (2 * workers))
    job = {"objective": "ppo", "heads": 0, "clip": None, "dynamic": False} | how
    job |= {"model": str(model), "rows": given, "out": str(folder / "out")}
    (folder / "job.json").write_text(json.dumps(job))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(workers), "LOCAL_WORLD_SIZE": str(workers), "MASTER_ADDR": "127.0.0.1"}
    common |= {"MASTER_PORT": str(port), "VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    common |= {"VERL_USE_EXTERNAL_MODULES": "leyden_trainer.verl.cpu,leyden_trainer.verl.policy_loss"}
    script = str(Path(__file__).with_name("verl_gradient.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(folder / "job.json")],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(workers)
    ]
    for process in ranks:
        said, _ = process.communicate()
        assert process.returncode == 0, said[-3000:]
    found = [torch.load(folder / f"out.{rank}") for rank in range(workers)]
    return {**found[0], "loss": sum(one["loss"] for one in found)}


def assert_same_direction(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """And of the same length."""
    mine = torch.cat([ours[name].flatten() for name in sorted(ours)])
    other = torch.cat([theirs[name].flatten() for name in sorted(ours)])
    assert torch.nn.functional.cosine_similarity(mine, other, dim=0) > 0.9999
    assert other.norm().item() == pytest.approx(mine.norm().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("objective", "pieces", "workers", "dynamic"),
    [("ppo", 1, 1, False), ("ppo", 2, 2, False), ("gspo", 5, 1, True), ("cispo", 5, 2, True)],
)
def test_verl_and_the_local_learner_have_the_same_loss_and_gradient(
    tmp_path: Path, objective: str, pieces: int, workers: int, dynamic: bool
) -> None:
    """However the rollouts are cut into rows, dealt to workers, and put into micro-batches."""
    rng = random.Random(7)
    model = make_tiny_model(tmp_path / "model")
    wholes = [rollout(f"r{number}", 5, rng) for number in range(4)]
    advantages = {span.call_id: Advantage(rng.uniform(-1, 1), "") for whole in wholes for span in whole.spans}
    loss, gradient = local_gradient(model, training_rows(wholes, advantages), objective)
    pieces_of = [piece for whole in wholes for piece in cut(whole, pieces)]
    rows = training_rows(pieces_of, advantages)
    found = verl_gradient(
        tmp_path, model, actors_rows(rows, pieces_of), objective=objective, workers=workers, dynamic=dynamic
    )
    assert found["loss"] == pytest.approx(loss, abs=1e-5)
    assert set(gradient) <= set(found["gradients"])  # the local backend leaves a tied embedding as it is
    assert_same_direction(gradient, found["gradients"])


def with_targets(transition: Transition, heads: int, rng: random.Random) -> TrainingRow:
    """The low head has a target at each trained token, the high one at each answer's first."""
    (row,) = training_rows([transition], {span.call_id: Advantage(0.0, "") for span in transition.spans})
    low = [(place, 0) for place, kept in enumerate(row.mask) if kept]
    high = [(span.start, 1) for span in transition.spans] if heads > 1 else []
    targets = [ValueTarget(*spot, rng.uniform(-1, 1), rng.uniform(-0.1, 0.1), rng.random()) for spot in (*low, *high)]
    return dataclasses.replace(row, targets=tuple(targets))


@pytest.mark.parametrize(("heads", "clip", "workers"), [(1, None, 1), (2, 0.2, 2)])
def test_verls_critic_and_the_local_one_have_the_same_loss_and_gradient(
    tmp_path: Path, heads: int, clip: float | None, workers: int
) -> None:
    """With as many heads as the method reads; the local critic takes the head that verl's drew."""
    rng = random.Random(7)
    folder = make_tiny_model(tmp_path / "model")
    transitions = [rollout(f"r{number}", 3, rng) for number in range(4)]
    rows = [with_targets(transition, heads, rng) for transition in transitions]
    given = []
    for row, transition in zip(rows, transitions, strict=True):
        start = response_start(transition)
        values = torch.zeros(len(row.mask), heads)
        for target in row.targets:
            values[target.place, target.head] = target.value
        columns = critic_columns(row, start, values[start:], parts=1)
        given.append(tokens(transition) | {name: columns[name].tolist() for name in TARGETS})
    found = verl_gradient(tmp_path, folder, given, workers=workers, heads=heads, clip=clip)

    model, _ = load_model(folder, device=torch.device("cpu"))
    own, _ = load_model(folder, device=torch.device("cpu"))
    settings = CriticSettings(learning_rate=1e-3, clip=clip)
    critic = Critic(settings, heads=heads, width=model.config.hidden_size, device=model.device, model=own)
    critic.heads.load_state_dict({name.removeprefix("score."): tensor for name, tensor in found["head"].items()})
    config = LearnerConfig(learning_rate=0.0, max_mismatch=1e9, max_grad_norm=1e9)
    stats = Learner(model, train_parameters(model), config, critic).step(rows)
    assert stats.value_loss == pytest.approx(found["loss"], abs=1e-5)
    names = {"heads": "score", "model": "model"}
    gradient = {
        ".".join([names[name.split(".")[0]], *name.split(".")[1:]]): parameter.grad
        for name, parameter in critic.parameters.items()
        if parameter.grad is not None
    }
    assert_same_direction(gradient, found["gradients"])
