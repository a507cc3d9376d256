"""Advantages, losses and gradients equal those of TRL's own trainers, driven with a tiny model and random rewards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from leyden_trainer.config import LossConfig
from leyden_trainer.credit import Advantage, CallView, RolloutView, assign, credit_method
from leyden_trainer.local.model import load_model
from leyden_trainer.loss import Tokens, policy_loss
from leyden_trainer.rows import TrainingRow
from leyden_trainer.transitions import Span, Transition
from leyden_trainer.weights import Aggregate, training_rows

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's and transformers', of each other
PROMPTS = ("how hot is it in Oslo", "book a bed in Rome")
MEMBERS = 4  # of a group
LENGTH = 6


@pytest.fixture(scope="module")
def rewards() -> list[float]:
    """One group with a spread, one of equals but for one."""
    noise = torch.randn(MEMBERS, generator=torch.Generator().manual_seed(0))
    return [*noise.tolist(), 1.0, 1.0, 0.0, 1.0]


@pytest.fixture
def made(tiny_folder: Path, tmp_path: Path, rewards: list[float]) -> Any:
    """Makes one of TRL's trainers; the completions that it samples are rewarded in turn."""

    def make(kind: type = GRPOTrainer, settings: type = GRPOConfig, **more: Any) -> Any:
        model, tokenizer = load_model(tiny_folder, device=torch.device("cpu"))
        size = len(PROMPTS) * MEMBERS
        args = settings(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            report_to=[],
            per_device_train_batch_size=size,
            num_generations=MEMBERS,
            max_completion_length=LENGTH,
            **more,
        )
        trainer = kind(
            model=model.double(),
            args=args,
            reward_funcs=lambda completions, **_: rewards[: len(completions)],
            train_dataset=Dataset.from_dict({"prompt": list(PROMPTS)}),
            processing_class=tokenizer,
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    return make


def sampled(trainer: Any) -> dict[str, Any]:
    """What TRL makes of the step: its own samples, rewards and advantages."""
    torch.manual_seed(1)
    inputs = [{"prompt": prompt} for prompt in PROMPTS for _ in range(MEMBERS)]
    return trainer._generate_and_score_completions(inputs)


def ours(method: str, rewards: Sequence[float]) -> list[float]:
    """Our advantages of the same rollouts, of one call each."""
    groups = [
        [RolloutView(f"{g}-{r}", rewards[g * MEMBERS + r], (CallView(f"{g}-{r}", "a"),)) for r in range(MEMBERS)]
        for g in range(len(PROMPTS))
    ]
    credit = assign(credit_method(method), groups)[0]
    return [credit[call.id].value for group in groups for rollout in group for call in rollout.calls]


@pytest.mark.parametrize(("method", "scale"), [("grpo", "group"), ("dr_grpo", "none")])
def test_the_advantages_of_grpo_and_dr_grpo_equal_trls(
    made: Any, rewards: list[float], method: str, scale: str
) -> None:
    theirs = sampled(made(scale_rewards=scale))["advantages"]
    assert ours(method, rewards) == pytest.approx(theirs.tolist(), abs=1e-6)


def test_the_advantages_of_rloo_equal_trls(made: Any, rewards: list[float]) -> None:
    theirs = sampled(made(RLOOTrainer, RLOOConfig, beta=0.0))["advantages"]
    assert ours("rloo", rewards) == pytest.approx(theirs.tolist(), abs=1e-6)


def batch_of(trainer: Any, advantages: Sequence[float]) -> dict[str, Any]:
    """Random prompts and completions of 1 to LENGTH tokens, as TRL's loss takes them; ratios from 0.5 to 2."""
    noise = torch.Generator().manual_seed(2)
    size = len(advantages)
    lengths = torch.randint(1, LENGTH + 1, (size, 1), generator=noise)
    lengths[0] = LENGTH
    completion_mask = (torch.arange(LENGTH) < lengths).long()
    inputs: dict[str, Any] = {
        "prompt_ids": torch.randint(3, 300, (size, 5), generator=noise),
        "prompt_mask": torch.ones((size, 5), dtype=torch.int64),
        "completion_ids": torch.randint(3, 300, (size, LENGTH), generator=noise) * completion_mask,
        "completion_mask": completion_mask,
        "advantages": torch.tensor(advantages, dtype=torch.float64),
        "num_items_in_batch": completion_mask.sum(),
    }
    now = logprobs_of(trainer, inputs).detach()
    moved, other = (torch.rand(now.shape, generator=noise, dtype=torch.float64) * 1.4 - 0.7 for _ in range(2))
    return {**inputs, "old_per_token_logps": now + moved, "ref_per_token_logps": now + other}


def logprobs_of(trainer: Any, inputs: dict[str, Any]) -> Tensor:
    """TRL's log probabilities of the completions, with gradient; float64, shape (B, T)."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, inputs["completion_ids"].size(1))[0]


def rows_of(inputs: dict[str, Any], aggregate: Aggregate) -> list[TrainingRow]:
    """Our rows of the batch: each completion is a rollout of one call, after a prompt of one token."""
    transitions = [
        Transition(
            rollout_id=str(b),
            token_ids=(0,) * (n + 1),
            mask=(False, *(True,) * n),
            logprobs=(0.0,) * (n + 1),
            versions=(None,) * (n + 1),
            spans=(Span(str(b), 0, 1, n + 1),),
        )
        for b, n in enumerate(inputs["completion_mask"].sum(1).tolist())
    ]
    credit = {str(b): Advantage(value, "") for b, value in enumerate(inputs["advantages"].tolist())}
    return training_rows(transitions, credit, aggregate=aggregate, constant=len(transitions) * LENGTH)


def our_loss(trainer: Any, inputs: dict[str, Any], aggregate: Aggregate, **settings: Any) -> Tensor:
    """Our loss of the batch; its log probabilities alone are TRL's."""
    rows = rows_of(inputs, aggregate)
    chosen = inputs["completion_mask"].bool()
    flat = [torch.tensor([v for row in rows for v in getattr(row, name)[1:]]).double() for name in _PER_TOKEN]
    tokens = Tokens(
        logprobs_of(trainer, inputs)[chosen],
        inputs["old_per_token_logps"][chosen],
        *flat,
        torch.arange(len(rows))[:, None].expand(chosen.shape)[chosen],
        reference_logprobs_N=inputs["ref_per_token_logps"][chosen],
    )
    return policy_loss(tokens, LossConfig(**settings))[0]


_PER_TOKEN = ("advantages", "weights")


def gradient_of(loss: Tensor, model: PreTrainedModel) -> Tensor:
    """Of all parameters, flat."""
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


CASES: dict[str, tuple[dict[str, Any], Aggregate, dict[str, Any]]] = {
    "mean over tokens": ({"loss_type": "bnpo"}, "token_mean", {}),
    "mean over the step's tokens": ({"loss_type": "dapo"}, "token_mean", {}),
    "Dr. GRPO": ({"loss_type": "dr_grpo"}, "constant", {}),
    "GRPO, mean of means": ({"loss_type": "grpo"}, "call_mean", {}),
    "clip higher": (
        {"loss_type": "dapo", "epsilon": 0.1, "epsilon_high": 0.4},
        "token_mean",
        {"clip_low": 0.1, "clip_high": 0.4},
    ),
    "KL": (
        {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": False},
        "token_mean",
        {"kl": 0.3, "kl_estimator": "k3"},
    ),
    "GSPO": (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05, "epsilon_high": 0.05},
        "call_mean",
        {"objective": "gspo", "clip_low": 0.05, "clip_high": 0.05},
    ),
}
"""TRL's settings, our aggregate, our loss's settings. By default TRL multiplies the KL term by the ratio; we do not."""


@pytest.mark.parametrize("case", CASES)
def test_the_clipped_losses_and_their_gradients_equal_trls(made: Any, rewards: list[float], case: str) -> None:
    theirs, aggregate, settings = CASES[case]
    trainer = made(**theirs)
    inputs = batch_of(trainer, ours("grpo", rewards))
    expected = trainer.compute_loss(trainer.model, inputs)
    loss = our_loss(trainer, inputs, aggregate, **settings)
    assert abs(expected.item()) > 1e-3
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    gradient = gradient_of(expected, trainer.model)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(gradient_of(loss, trainer.model), gradient, rtol=0, atol=1e-6)


def test_the_gradient_of_cispo_equals_trls(made: Any, rewards: list[float]) -> None:
    """Not the value: TRL's has log π where ours has log(π/old). TRL's bound is on the ratio itself."""
    trainer = made(loss_type="cispo", epsilon_high=1.5)
    inputs = batch_of(trainer, ours("grpo", rewards))
    loss = our_loss(trainer, inputs, "token_mean", objective="cispo", clip_low=1.0, clip_high=0.5)
    gradient = gradient_of(trainer.compute_loss(trainer.model, inputs), trainer.model)
    torch.testing.assert_close(gradient_of(loss, trainer.model), gradient, rtol=0, atol=1e-6)
