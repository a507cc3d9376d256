"""The same rollouts on verl's FSDP2 worker and on the local learner: the same loss, the same gradient."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from leyden_trainer.config import LossConfig
from leyden_trainer.credit import Advantage
from leyden_trainer.local.learner import Learner, LearnerConfig
from leyden_trainer.local.model import load_model
from leyden_trainer.local.parameters import train_parameters
from leyden_trainer.rows import TrainingRow
from leyden_trainer.testing import make_tiny_model
from leyden_trainer.transitions import Span, Transition
from leyden_trainer.verl.fields import fields_of, response_start
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


def verl_gradient(folder: Path, model: Path, rows, transitions, *, objective: str, workers: int, dynamic: bool):
    """Loss and gradient of the same rows, dealt to so many workers; short of a share, zero-mask rows fill up."""
    given = []
    for row, transition in zip(rows, transitions, strict=True):
        fields = fields_of(transition, uid="u", reward=0.0, trained=transition.mask)
        start = response_start(transition)
        names = ("prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask")
        given.append({name: fields[name].tolist() for name in names})
        given[-1] |= {
            "old_log_probs": row.logprobs[start:],
            "advantages": row.advantages[start:],
            "rollout_is_weights": row.weights[start:],
        }
    empty = {name: [0.0] for name in ("old_log_probs", "advantages", "rollout_is_weights")}
    empty |= {"prompts": [2], "responses": [2], "input_ids": [2, 2], "position_ids": [0, 1]}
    empty |= {"response_mask": [0], "loss_mask": [0]}
    given += [empty] * (-len(given) % (2 * workers))
    job = {"model": str(model), "rows": given, "objective": objective, "dynamic": dynamic, "out": str(folder / "out")}
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
    return sum(one["loss"] for one in found), found[0]["gradients"]


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
    verl_loss, verl_gradients = verl_gradient(
        tmp_path, model, rows, pieces_of, objective=objective, workers=workers, dynamic=dynamic
    )
    assert verl_loss == pytest.approx(loss, abs=1e-5)
    assert set(gradient) <= set(verl_gradients)  # the local backend leaves a tied embedding as it is
    ours = torch.cat([gradient[name].flatten() for name in sorted(gradient)])
    theirs = torch.cat([verl_gradients[name].flatten() for name in sorted(gradient)])
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.9999
    assert theirs.norm().item() == pytest.approx(ours.norm().item(), rel=1e-4)
