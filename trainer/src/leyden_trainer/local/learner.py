"""The optimiser of the local backend: one step on all rows, in micro-batches that compute what rows share once.

The loss is the rows' weighted sum and nothing is divided here, so the gradient does not depend on how rows were packed.
Whoever calls it keeps the sampler paused: both use the same weights.
"""

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from leyden.errors import BadInput, TrainingStopped
from leyden_trainer.backend import StepStats
from leyden_trainer.config import LossConfig
from leyden_trainer.local.critic import Critic
from leyden_trainer.local.parameters import has_adapters, without_adapters
from leyden_trainer.local.score import Scores, micro_batches, score
from leyden_trainer.loss import Tokens, policy_loss, value_loss
from leyden_trainer.rows import RowScores, TrainingRow, minibatches

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
    loss: LossConfig = field(default_factory=LossConfig)
    minibatches: int = 1
    epochs: int = 1
    seed: int = 0
    """Deals rollouts to mini-batches."""
    temperature: float = 1.0
    """The one that the rows were sampled with. A top_p below 1 cannot be reproduced: it shows as mismatch."""
    micro_batch_tokens: int = 4096
    max_mismatch: float = 1e-3


class Learner:
    """Updates `parameters` of `model` in place, and the critic's. The model as it is now is the KL term's reference."""

    def __init__(
        self,
        model: PreTrainedModel,
        parameters: Mapping[str, nn.Parameter],
        config: LearnerConfig,
        critic: Critic | None = None,
    ) -> None:
        self.model = model
        self.parameters = dict(parameters)
        self.config = config
        self.critic = critic
        self.num_steps = 0
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._reference: PreTrainedModel | None = None
        self.refer_to_model()

    def refer_to_model(self) -> None:
        """From now on the KL term's reference is the model as it is; with adapters it is the model without them."""
        if self.config.loss.kl and not has_adapters(self.model):
            self._reference = copy.deepcopy(self.model).requires_grad_(False)

    def step(self, rows: Sequence[TrainingRow]) -> StepStats:
        """One step: an update for each mini-batch of each epoch. Rows that nothing can be learnt from are left out.

        Raises:
            TrainingStopped: the first mini-batch's log probabilities are not those that the rows were given, or a
                gradient is not finite. The weights are as they were before that mini-batch.
        """
        useful = [row for row in rows if self._teaches(row)]
        seen = _Seen()
        for epoch in range(self.config.epochs):
            parts = minibatches(useful, self.config.minibatches, f"{self.config.seed} {self.num_steps} {epoch}")
            for part in parts:
                self._zero_gradients()
                for batch in micro_batches(part, self.config.micro_batch_tokens):
                    self._accumulate(batch, seen, scale=len(parts), first=not seen.grad_norms)
                if not seen.grad_norms:
                    self._check_mismatch(seen)
                seen.grad_norms.append(self._update())
        self.num_steps += 1
        return seen.stats(self.config.epochs)

    @torch.no_grad()
    def score(self, rows: Sequence[TrainingRow]) -> list[RowScores]:
        """Log probabilities of each row's trained tokens, and the critic's values, by the weights as they are."""
        found: dict[int, RowScores] = {}
        for batch in micro_batches(rows, self.config.micro_batch_tokens):
            scores = score(self.model, batch, temperature=self.config.temperature, critic=self.critic)
            sizes = [sum(row.mask) for row in batch]
            values_N_H = scores.logprobs_N.new_zeros(sum(sizes), 0) if scores.values_N_H is None else scores.values_N_H
            parts = zip(batch, scores.logprobs_N.split(sizes), values_N_H.split(sizes), strict=True)
            for row, logprobs_N, values in parts:
                by_head = tuple(_spread(column, row) for column in values.T.tolist())
                found[id(row)] = RowScores(_spread(logprobs_N.tolist(), row), by_head)
        return [found[id(row)] for row in rows]

    def state(self) -> dict[str, Any]:
        """What `load` needs to go on exactly here."""
        weights = {name: parameter.detach() for name, parameter in self.parameters.items()}
        state = {"weights": weights, "optimizer": self._optimizer.state_dict(), "num_steps": self.num_steps}
        return state if self.critic is None else {**state, "critic": self.critic.state()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Take weights, optimiser, critic and step number from `state()` of a learner with the same parameters.

        Raises:
            TrainingStopped: other parameters were trained, or with another critic.
        """
        if set(state["weights"]) != set(self.parameters):
            raise TrainingStopped(
                f"the saved state has {len(state['weights'])} parameters, this run trains {len(self.parameters)} "
                "others; resume with the model, layers and lora_rank that it was started with"
            )
        if ("critic" in state) != (self.critic is not None):
            raise TrainingStopped("the saved state and this run differ in having a critic; resume with the same method")
        for name, parameter in self.parameters.items():
            parameter.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        if self.critic is not None:
            self.critic.load(state["critic"])
        self.num_steps = state["num_steps"]

    def _teaches(self, row: TrainingRow) -> bool:
        loss = self.config.loss
        return bool(loss.kl or loss.entropy or row.targets or any(row.advantages))

    def _accumulate(self, batch: Sequence[TrainingRow], seen: "_Seen", *, scale: int, first: bool) -> None:
        """Add the gradient of some rows, times `scale`."""
        settings, device = self.config.loss, self.model.device
        scores = score(
            self.model,
            batch,
            temperature=self.config.temperature,
            critic=self.critic,
            entropy_gradient=settings.entropy > 0,
        )
        tokens = Tokens(
            logprobs_N=scores.logprobs_N,
            old_logprobs_N=_trained([row.logprobs for row in batch], batch, device),
            advantages_N=_trained([row.advantages for row in batch], batch, device),
            weights_N=_trained([row.weights for row in batch], batch, device),
            sequences_N=_sequences(batch, device, checked=settings.objective == "gspo"),
            reference_logprobs_N=self._reference_logprobs(batch) if settings.kl else None,
            entropies_N=scores.entropies_N,
        )
        loss, stats = policy_loss(tokens, settings)
        value = self._value_loss(batch, scores)
        (scale * (loss + value)).backward()
        seen.add(scores)
        if first:
            seen.compare(batch, scores, tokens.old_logprobs_N)
        seen.loss += loss.item()
        seen.value_loss += value.item()
        seen.clipped += stats.clipped
        seen.kl += stats.kl
        seen.reference_kl += stats.reference_kl

    def _value_loss(self, batch: Sequence[TrainingRow], scores: Scores) -> Tensor:
        targets = [target for row in batch for target in row.targets]
        if not targets:
            return scores.logprobs_N.new_zeros(())
        if self.critic is None or scores.values_N_H is None:
            raise BadInput(f"rows of rollout {batch[0].rollout_id} have targets for a critic, and there is none")
        device = self.model.device
        columns = [(target.target, target.weight, target.value) for target in targets]
        returns_N, weights_N, old_N = torch.tensor(columns, device=device).T
        heads = torch.tensor([target.head for target in targets], device=device)
        values_N = scores.values_N_H[torch.tensor(_flat_places(batch), device=device), heads]
        return value_loss(values_N, returns_N, weights_N, old_values_N=old_N, clip=self.critic.settings.clip)

    @torch.no_grad()
    def _reference_logprobs(self, batch: Sequence[TrainingRow]) -> Tensor:
        if self._reference is not None:
            return score(self._reference, batch, temperature=self.config.temperature).logprobs_N
        with without_adapters(self.model):
            return score(self.model, batch, temperature=self.config.temperature).logprobs_N

    def _check_mismatch(self, seen: "_Seen") -> None:
        if seen.mismatch > self.config.max_mismatch:
            raise TrainingStopped(
                f"sampler and trainer disagree by {seen.mismatch:.3g} about the log probability of a token of rollout "
                f"{seen.mismatch_rollout}, more than trainer.max_mismatch = {self.config.max_mismatch}: were the rows "
                f"sampled with other weights, another temperature than {self.config.temperature}, or top_p below 1?"
            )

    def _zero_gradients(self) -> None:
        self._optimizer.zero_grad()
        if self.critic is not None:
            self.critic.optimizer.zero_grad()

    def _update(self) -> float:
        """Clip and step, the critic too; the norm of the policy's gradient before clipping."""
        norm = self._clipped_norm(self.parameters.values(), "policy")
        if self.critic is not None:
            self._clipped_norm(self.critic.parameters.values(), "critic")
            self.critic.optimizer.step()
        warmed = min(1.0, (self.num_steps + 1) / max(1, self.config.warmup_steps))
        self._optimizer.param_groups[0]["lr"] = self.config.learning_rate * warmed
        self._optimizer.step()
        return norm

    def _clipped_norm(self, parameters: Iterable[nn.Parameter], whose: str) -> float:
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm).item()
        if not math.isfinite(norm):
            raise TrainingStopped(
                f"the norm of the {whose}'s gradient is {norm} in step {self.num_steps + 1}; lower its learning rate"
            )
        return norm


@dataclass
class _Seen:
    """Sums over the micro-batches of a step."""

    loss: float = 0.0
    value_loss: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    reference_kl: float = 0.0
    clipped: float = 0.0
    mismatch: float = 0.0
    mismatch_rollout: str = ""
    tokens: int = 0
    computed: int = 0
    grad_norms: list[float] = field(default_factory=list[float])

    def add(self, scores: Scores) -> None:
        self.entropy += scores.entropies_N.sum().item()
        self.tokens += len(scores.logprobs_N)
        self.computed += scores.computed_tokens

    def compare(self, batch: Sequence[TrainingRow], scores: Scores, old_N: Tensor) -> None:
        # A NaN is the worst mismatch, and would compare as none.
        difference_N = (scores.logprobs_N.detach() - old_N).abs().nan_to_num(nan=math.inf, posinf=math.inf)
        for row, part in zip(batch, difference_N.split([sum(row.mask) for row in batch]), strict=True):
            if part.max().item() > self.mismatch:
                self.mismatch, self.mismatch_rollout = part.max().item(), row.rollout_id

    def stats(self, epochs: int) -> StepStats:
        """Means over the epochs, and over the tokens of all of them."""
        tokens = max(1, self.tokens)
        return StepStats(
            loss=self.loss / epochs,
            value_loss=self.value_loss / epochs,
            grad_norm=sum(self.grad_norms) / max(1, len(self.grad_norms)),
            entropy=self.entropy / tokens,
            kl=self.kl / tokens,
            reference_kl=self.reference_kl / tokens,
            clip_fraction=self.clipped / tokens,
            mismatch=self.mismatch,
            trained_tokens=self.tokens // epochs,
            computed_tokens=self.computed,
        )


def _trained(values: Sequence[Sequence[float]], batch: Sequence[TrainingRow], device: torch.device) -> Tensor:
    """Those of the rows' numbers that belong to trained tokens, [N] float32."""
    chosen = [
        v for row, numbers in zip(batch, values, strict=True) for v, m in zip(numbers, row.mask, strict=True) if m
    ]
    return torch.tensor(chosen, device=device)


def _sequences(batch: Sequence[TrainingRow], device: torch.device, *, checked: bool) -> Tensor:
    """For each trained token the number of its answer, [N] int64; all 0 if nobody reads it (not `checked`)."""
    if not checked:
        return torch.zeros(sum(sum(row.mask) for row in batch), dtype=torch.int64, device=device)
    numbers: list[int] = []
    count = 0
    for row in batch:
        places = {place: count + n for n, (start, stop) in enumerate(row.spans) for place in range(start, stop)}
        trained = [place for place, chosen in enumerate(row.mask) if chosen]
        if sorted(places) != trained:
            raise BadInput(
                f"the spans of a row of rollout {row.rollout_id} are not its trained tokens; gspo needs them"
            )
        numbers += [places[place] for place in trained]
        count += len(row.spans)
    return torch.tensor(numbers, device=device)


def _flat_places(batch: Sequence[TrainingRow]) -> list[int]:
    """Where each value target of the rows lies among their trained tokens."""
    places: list[int] = []
    before = 0
    for row in batch:
        flat = {place: before + n for n, place in enumerate(place for place, m in enumerate(row.mask) if m)}
        places += [flat[target.place] for target in row.targets]
        before += len(flat)
    return places


def _spread(values: Sequence[float], row: TrainingRow) -> tuple[float, ...]:
    """The numbers of trained tokens at their places in the row, 0 elsewhere."""
    left = iter(values)
    return tuple(next(left) if trained else 0.0 for trained in row.mask)
