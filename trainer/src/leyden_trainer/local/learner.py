"""The optimiser of the local backend: one step on all rows, in micro-batches that compute what rows share once.

The loss is the rows' weighted sum and nothing is divided here, so the gradient does not depend on how rows were packed.
Whoever calls it keeps the sampler paused: both use the same weights.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.errors import TrainingStopped
from leyden_trainer.backend import StepStats
from leyden_trainer.local.parameters import has_adapters, without_adapters
from leyden_trainer.local.score import Scores, micro_batches, score
from leyden_trainer.loss import policy_loss
from leyden_trainer.rows import TrainingRow

__all__ = ["Learner", "LearnerConfig"]


@dataclass(frozen=True)
class LearnerConfig:
    """How to step."""

    learning_rate: float
    warmup_steps: int = 0
    """The rate grows linearly over so many steps."""
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl: float = 0.0
    temperature: float = 1.0
    """The one that the rows were sampled with. A top_p below 1 cannot be reproduced: it shows as mismatch."""
    micro_batch_tokens: int = 4096
    max_mismatch: float = 1e-3


class Learner:
    """Updates `parameters` of `model` in place. The model as it is now is the reference of the KL term."""

    def __init__(self, model: PreTrainedModel, parameters: Mapping[str, nn.Parameter], config: LearnerConfig) -> None:
        self.model = model
        self.parameters = dict(parameters)
        self.config = config
        self.num_steps = 0
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._reference: PreTrainedModel | None = None
        if config.kl and not has_adapters(model):
            self._reference = copy.deepcopy(model).requires_grad_(False)

    def step(self, rows: Sequence[TrainingRow]) -> StepStats:
        """One optimiser step. Rows without any advantage are left out if there is no KL term to learn from.

        Raises:
            TrainingStopped: sampler and trainer disagree about a token, or the gradient is not finite; the weights are
                then as they were.
        """
        useful = [row for row in rows if self.config.kl or any(row.advantages)]
        seen = _Seen()
        self._optimizer.zero_grad()
        for batch in micro_batches(useful, self.config.micro_batch_tokens):
            self._accumulate(batch, seen)
        if seen.mismatch > self.config.max_mismatch:
            raise TrainingStopped(
                f"sampler and trainer disagree by {seen.mismatch:.3g} about the log probability of a token of rollout "
                f"{seen.mismatch_rollout}, more than trainer.max_mismatch = {self.config.max_mismatch}: were the rows "
                f"sampled with other weights, another temperature than {self.config.temperature}, or top_p below 1?"
            )
        grad_norm = self._update() if useful else 0.0
        self.num_steps += 1
        tokens = max(1, seen.tokens)
        return StepStats(
            loss=seen.loss,
            grad_norm=grad_norm,
            entropy=seen.entropy / tokens,
            kl=seen.kl / tokens,
            clip_fraction=seen.clipped / tokens,
            mismatch=seen.mismatch,
            trained_tokens=seen.tokens,
            computed_tokens=seen.computed,
        )

    @torch.no_grad()
    def logprobs(self, rows: Sequence[TrainingRow]) -> list[list[float]]:
        """The log probabilities of each row's trained tokens, by the weights as they are."""
        found: dict[int, list[float]] = {}
        for batch in micro_batches(rows, self.config.micro_batch_tokens):
            scores = score(self.model, batch, temperature=self.config.temperature)
            parts = scores.logprobs_N.split([sum(row.mask) for row in batch])
            found |= {id(row): part.tolist() for row, part in zip(batch, parts, strict=True)}
        return [found[id(row)] for row in rows]

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on exactly here."""
        weights = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return {"weights": weights, "optimizer": self._optimizer.state_dict(), "num_steps": self.num_steps}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Take weights, optimiser and step number from `state()` of a learner with the same parameters.

        Raises:
            TrainingStopped: other parameters were trained.
        """
        if set(state["weights"]) != set(self.parameters):
            raise TrainingStopped(
                f"the saved state has {len(state['weights'])} parameters, this run trains {len(self.parameters)} "
                "others; resume with the model, layers and lora_rank that it was started with"
            )
        for name, parameter in self.parameters.items():
            parameter.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.num_steps = state["num_steps"]

    def _accumulate(self, batch: Sequence[TrainingRow], seen: "_Seen") -> None:
        """Add the gradient of some rows."""
        device = self.model.device
        scores = score(self.model, batch, temperature=self.config.temperature)
        old_N = _trained([row.logprobs for row in batch], batch, device)
        loss, stats = policy_loss(
            scores.logprobs_N,
            old_N,
            _trained([row.advantages for row in batch], batch, device),
            _trained([row.weights for row in batch], batch, device),
            clip_low=self.config.clip_low,
            clip_high=self.config.clip_high,
            reference_logprobs_N=self._reference_logprobs(batch) if self.config.kl else None,
            kl=self.config.kl,
        )
        loss.backward()
        seen.add(batch, scores, old_N)
        seen.loss += loss.item()
        seen.clipped += stats.clipped
        seen.kl += stats.kl

    @torch.no_grad()
    def _reference_logprobs(self, batch: Sequence[TrainingRow]) -> Tensor:
        if self._reference is not None:
            return score(self._reference, batch, temperature=self.config.temperature).logprobs_N
        with without_adapters(self.model):
            return score(self.model, batch, temperature=self.config.temperature).logprobs_N

    def _update(self) -> float:
        """Clip and step; the gradient's norm before clipping."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm).item()
        if not math.isfinite(norm):
            raise TrainingStopped(
                f"the gradient's norm is {norm} in step {self.num_steps + 1}; lower the learning rate"
            )
        warmed = min(1.0, (self.num_steps + 1) / max(1, self.config.warmup_steps))
        self._optimizer.param_groups[0]["lr"] = self.config.learning_rate * warmed
        self._optimizer.step()
        return norm


@dataclass
class _Seen:
    """Sums over the micro-batches of a step."""

    loss: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    clipped: float = 0.0
    mismatch: float = 0.0
    mismatch_rollout: str = ""
    tokens: int = 0
    computed: int = 0

    def add(self, batch: Sequence[TrainingRow], scores: Scores, old_N: Tensor) -> None:
        self.entropy += scores.entropies_N.sum().item()
        self.tokens += len(old_N)
        self.computed += scores.computed_tokens
        # A NaN is the worst mismatch, and would compare as none.
        difference_N = (scores.logprobs_N.detach() - old_N).abs().nan_to_num(nan=math.inf, posinf=math.inf)
        for row, part in zip(batch, difference_N.split([sum(row.mask) for row in batch]), strict=True):
            if part.max().item() > self.mismatch:
                self.mismatch, self.mismatch_rollout = part.max().item(), row.rollout_id


def _trained(values: Sequence[Sequence[float]], batch: Sequence[TrainingRow], device: torch.device) -> Tensor:
    """Those of the rows' numbers that belong to trained tokens, [N] float32."""
    chosen = [
        v for row, numbers in zip(batch, values, strict=True) for v, m in zip(numbers, row.mask, strict=True) if m
    ]
    return torch.tensor(chosen, device=device)
