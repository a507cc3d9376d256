"""verl's synchronous trainer with Leyden's credit. `fit` and `step` are verl's; only what its hooks leave out is replaced.

Three private methods are overridden, each for one reason: `_compute_advantage` (our credit and token weights),
`_get_required_batch_multiple` and `_update_actor` (whole rollouts, one optimiser step for a batch of any size).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import open_dict
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import PPOTrainerSync

from leyden.errors import TrainingStopped
from leyden_trainer.config import TrainConfig
from leyden_trainer.credit import CreditMethod, assign, view
from leyden_trainer.crediting import credits_of
from leyden_trainer.journal import Journal
from leyden_trainer.transitions import merge_rate
from leyden_trainer.verl.fields import response_start
from leyden_trainer.verl.manager import Experience, RolloutManager
from leyden_trainer.weights import training_rows

__all__ = ["LeydenTrainer"]

POLL_S = 0.05
"""How often verl looks whether the rollouts are there; its own default is 2 s."""


class LeydenTrainer(PPOTrainerSync):
    """`agent_loop_manager` is a `RolloutManager`."""

    agent_loop_manager: RolloutManager

    def __init__(self, config: Any, *, settings: TrainConfig, run: str, method: CreditMethod, on_cpu: bool) -> None:
        self._settings, self._run, self._method, self._on_cpu = settings, run, method, on_cpu
        self._journal: Journal | None = None
        super().__init__(config)
        self.replay_buffer.poll_interval = POLL_S

    def write_to(self, journal: Journal) -> None:
        """Where the figures of each step go."""
        self._journal = journal

    def serve(self, *, held: bool) -> None:
        """Tell the gateway where the policy is, and that its weights have made `global_steps` steps."""
        addresses = self.llm_server_manager.get_addresses()
        model = self.config.actor_rollout_ref.model.path
        self.agent_loop_manager.publish(addresses, model=model, version=self.global_steps, held=held)

    # What verl calls as it goes on.

    def on_train_begin(self) -> None:
        """The figures go where a run of the local backend leaves them too."""
        super().on_train_begin()
        self.logger.logger["leyden"] = _Sink(self._journal)

    def on_sample_end(self) -> None:
        """All rollouts of the step are in; requests of late ones wait while the weights change."""
        self.agent_loop_manager.check()
        self.serve(held=True)
        super().on_sample_end()

    def on_step_end(self) -> None:
        """The new weights are in the servers when verl's own hook is done."""
        super().on_step_end()
        self.serve(held=False)

    def on_validate_end(self) -> None:
        """Note the held-out score as Leyden counts it: incomplete rollouts stay in the denominator."""
        super().on_validate_end()
        self.agent_loop_manager.check()
        if self._journal is not None and self.agent_loop_manager.heldout is not None:
            step, score = self.agent_loop_manager.heldout
            self._journal.write(step, {"heldout": score})
            print(f"  held-out after step {step}: {score:.3f}", flush=True)

    # What verl's hooks leave out.

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        if not self._on_cpu:
            return
        from leyden_trainer.verl.cpu import cpu_workers

        training, actor = (ray.remote(worker) for worker in cpu_workers())
        for role in self.role_worker_mapping:
            self.role_worker_mapping[role] = training if role == Role.Critic else actor

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        """Rows of whole rollouts, padded by verl's zero-mask rows to what the workers can share, and no further."""
        rows = self._settings.trainer.rollouts_per_task  # verl counts a mini-batch in prompts, each of so many rows
        return math.lcm(rows, dp_size) * self._settings.trainer.minibatches

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Advantages and token weights by Leyden's pure functions, written back for each row of verl's."""
        experience = self.agent_loop_manager.experience
        if experience is None:
            raise TrainingStopped(f"step {self.global_steps} has no rollouts")
        columns = self._columns(experience, batch)
        names = ["response_mask", "rollout_log_probs", "old_log_probs"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        sampler, trainer = data["rollout_log_probs"].unbind(), data["old_log_probs"].unbind()
        masks = [mask.bool() for mask in data["response_mask"].unbind()]
        ratios = [torch.where(m, t - s, 0.0) for s, t, m in zip(sampler, trainer, masks, strict=True)]
        metrics["leyden/mismatch"] = self._checked_mismatch(ratios)
        loss = self._settings.loss
        if loss.importance_cap is not None:
            weights = [ratio.exp().clamp(max=loss.importance_cap) for ratio in ratios]
            metrics["leyden/importance"] = float(torch.cat([w[m] for w, m in zip(weights, masks, strict=True)]).mean())
            columns["advantages"] = [a * w for a, w in zip(columns["advantages"], weights, strict=True)]
        if loss.old_logprobs == "sampler":
            columns["old_log_probs"] = list(sampler)
        fields = TensorDict({name: _jagged(rows) for name, rows in columns.items()}, batch_size=len(batch))
        batch = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
        metrics.update(_figures(experience, self.agent_loop_manager.num_groups))
        return batch

    def _columns(self, experience: Experience, batch: Any) -> dict[str, list[Tensor]]:
        """For each row of verl's batch, over its responses: advantages, returns and weights; 0 for padding rows."""
        groups = experience.batch.groups
        transitions = [row for group in groups for member in group for row in member.transitions]
        advantages, _ = assign(self._method, [[view(m.rollout, m.calls, m.rewards) for m in g] for g in groups])
        self.agent_loop_manager.credit(
            credits_of(experience.batch, advantages, run=self._run, step=self.global_steps, method=self._method.name)
        )
        values = {call_id: advantage.value for call_id, advantage in advantages.items()}
        rows = iter(training_rows(transitions, values, aggregate=self._settings.loss.aggregate))
        by_transition = {
            id(t): next(rows) for t in transitions if any(span.call_id in advantages for span in t.spans)
        }
        columns: dict[str, list[Tensor]] = {"advantages": [], "returns": [], "rollout_is_weights": []}
        for key, tag in zip(batch.keys, batch.tags, strict=True):
            transition = experience.rows.get(key)
            row = by_transition.get(id(transition))
            if transition is None or row is None:
                advantage = weight = torch.zeros(tag["response_len"])
            else:
                start = response_start(transition)
                advantage, weight = torch.tensor(row.advantages[start:]), torch.tensor(row.weights[start:])
            columns["advantages"].append(advantage)
            columns["returns"].append(advantage)
            columns["rollout_is_weights"].append(weight)
        return columns

    def _checked_mismatch(self, ratios: Sequence[Tensor]) -> float:
        """The largest |log trainer - log sampler| of a trained token; training stops where it is too large."""
        worst = max(float(ratio.abs().max()) for ratio in ratios)
        if not worst <= self._settings.trainer.max_mismatch:
            raise TrainingStopped(
                f"sampler and trainer disagree by {worst:.3g} about the log probability of a token in step "
                f"{self.global_steps}, more than trainer.max_mismatch = {self._settings.trainer.max_mismatch}: weights "
                "that did not reach vLLM, another temperature, or a precision (bfloat16) that needs a higher limit"
            )
        return worst

    def _update_actor(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """As many optimiser steps as `trainer.minibatches` says, whatever the number of rows."""
        prompts = len(batch) // self._settings.trainer.minibatches // self.config.actor_rollout_ref.rollout.n
        with open_dict(self.config):
            self.config.actor_rollout_ref.actor.ppo_mini_batch_size = prompts
        return super()._update_actor(batch, metrics)


def _jagged(rows: Sequence[Tensor]) -> Tensor:
    """(B, j), float32."""
    return torch.nested.as_nested_tensor([row.float() for row in rows], layout=torch.jagged)


def _figures(experience: Experience, num_groups: int) -> dict[str, float]:
    batch = experience.batch
    return {
        "leyden/reward": batch.mean_reward,
        "leyden/rollouts": len(batch.members),
        "leyden/failed": batch.num_failed,
        "leyden/incomplete": batch.num_incomplete,
        "leyden/silent_groups": batch.num_silent_groups,
        "leyden/replaced": batch.replaced,
        "leyden/num_groups": num_groups,
        "leyden/merge_rate": merge_rate([member.calls for group in batch.groups for member in group]),
    }


class _Sink:
    """A logger of verl's that writes Leyden's `metrics.jsonl` and TensorBoard files, and a line a step."""

    _NAMES: Mapping[str, str] = {
        "leyden/reward": "reward",
        "actor/entropy": "entropy",
        "actor/grad_norm": "grad_norm",
        "actor/pg_loss": "loss",
        "actor/ppo_kl": "kl",
        "actor/clip_fraction": "clip_fraction",
        "leyden/mismatch": "mismatch",
        "timing_s/step": "seconds",
        "timing_s/gen": "seconds_rollouts",
    }

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal

    def log(self, data: Mapping[str, Any], step: int) -> None:
        figures = {self._NAMES.get(name, name): float(v) for name, v in data.items() if isinstance(v, int | float)}
        if self._journal is not None:
            self._journal.write(step, figures)
        parts = [f"{name} {figures[name]:.4g}" for name in self._NAMES.values() if name in figures]
        print(f"step {step:>3}  {'  '.join(parts)}", flush=True)

    def finish(self) -> None:
        """The journal is closed by who opened it."""
