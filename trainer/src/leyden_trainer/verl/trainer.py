"""verl's trainers with Leyden's credit. `fit` and `step` are verl's; what its hooks leave out is replaced.

Two private methods are overridden, each for one reason: `_compute_advantage` (our credit and token weights), and
`_get_required_batch_multiple` (whole rollouts, one optimiser step for a batch of any size); and, on a CPU alone,
`_init_resource_pool_mgr` (workers that verl has no CPU form of).
"""

import asyncio
import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import torch
import transfer_queue as tq
from omegaconf import open_dict
from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import PPOTrainer, PPOTrainerColocateAsync, PPOTrainerSync

from leyden_trainer.advice import Advisor, notes
from leyden_trainer.assignment import Assignment, assigned
from leyden_trainer.config import TrainConfig
from leyden_trainer.credit import CreditMethod, Memory
from leyden_trainer.crediting import credits_of
from leyden_trainer.journal import Journal
from leyden_trainer.transitions import merge_rate
from leyden_trainer.verl.critic import critic_loss
from leyden_trainer.verl.manager import Experience, RolloutManager
from leyden_trainer.verl.remembered import Remembered, remember
from leyden_trainer.verl.scores import TransferredScores, columns_of
from leyden_trainer.verl.sink import Sink

__all__ = ["TRAINERS", "LeydenTrainer"]

POLL_S = 0.05
"""How often verl looks whether the rollouts are there; its own default is 2 s."""


SEEN_S = 0.2
"""The gateway has seen by then that an endpoint is held (it looks every 0.05 s), and sends it nothing more."""


class LeydenTrainer(PPOTrainer):
    """What the two trainers share. `agent_loop_manager` is a `RolloutManager`."""

    agent_loop_manager: RolloutManager

    def __init__(self, config: Any, *, settings: TrainConfig, folder: Path, method: CreditMethod, on_cpu: bool) -> None:
        self._settings, self._folder, self._method, self._on_cpu = settings, folder, method, on_cpu
        self._journal: Journal | None = None
        self._remembered = Remembered(0)
        self._advisor = Advisor(settings.trainer)
        super().__init__(config)
        self.replay_buffer.poll_interval = POLL_S

    def resume(self, journal: Journal, remembered: Remembered) -> None:
        """Where the figures of each step go, and what is known of the steps before.

        What verl kept of rollouts that were under way is dropped: the next step asks the store for them, or for others.
        """
        self._journal, self._remembered = journal, remembered
        if kept := tq.kv_list("train"):
            tq.kv_clear(keys=list(kept["train"]), partition_id="train")
        self._restored_tq_prompt_count = 0

    def on_init_end(self) -> None:
        """Weights are loaded; the critic, if there is one, learns what our methods say."""
        super().on_init_end()
        if self.use_critic:
            self.critic_wg.set_loss_fn(functools.partial(critic_loss, clip=self._settings.critic.clip))

    def serve(self, *, held: bool) -> None:
        """Tell the gateway where the policy is, and which weights it has: those after `global_steps` steps, and before
        the step's update, while requests are held for it, those of the step before.
        """
        addresses = self.llm_server_manager.get_addresses()
        model = self.config.actor_rollout_ref.model.path
        version = self.global_steps - 1 if held else self.global_steps
        self.agent_loop_manager.publish(addresses, model=model, version=version, held=held)

    # What verl calls as it goes on.

    def on_train_begin(self) -> None:
        """The figures go where a run of the local backend leaves them too."""
        super().on_train_begin()
        self.logger.logger["leyden"] = Sink(self._note, self._remarks)

    def _note(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._journal is not None:
            self._journal.write(step, metrics)
        self.agent_loop_manager.note(step, metrics)

    def _remarks(self, figures: Mapping[str, float]) -> list[str]:
        """As the local backend's terminal says it: what happened to the rollouts, and what to do about it."""
        experience = self.agent_loop_manager.experience
        if experience is None:
            return []
        warnings = self._advisor.warnings(figures, experience.batch)
        return [*notes(experience.batch), *(f"warning: {line}" for line in warnings)]

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
            self._note(step, {"heldout": score})
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
        """Rows of whole rollouts, padded by verl's zero-mask rows to what the workers can share in micro-batches, and
        no further."""
        rows = self._settings.trainer.rollouts_per_task  # verl counts a mini-batch in prompts, each of so many rows
        micro = math.lcm(*_micro_batches(self.config, critic=self.use_critic))
        return math.lcm(rows, dp_size * micro) * self._settings.trainer.minibatches

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        """Leyden's credit, token weights and returns, written back for each row of verl's; padding rows have 0."""
        experience = self.agent_loop_manager.take(batch.keys, step=self.global_steps)
        groups = experience.batch.groups
        scored = TransferredScores(batch, experience, with_values=self.use_critic)
        before = self.global_steps - 1
        memory = self._remembered.credit
        work = assigned(groups, self._settings, self._method, memory, scored, always_score=True, version=before)
        assignment = asyncio.run(work)
        self._remember(assignment.memory)
        self.agent_loop_manager.credit(
            credits_of(
                experience.batch,
                assignment.advantages,
                run=self._folder.name,
                step=self.global_steps,
                method=self._settings.credit.method,
            )
        )
        columns = columns_of(
            batch, experience, assignment, values=scored.values, parts=self._settings.trainer.minibatches
        )
        fields = TensorDict({name: _jagged(rows) for name, rows in columns.items()}, batch_size=len(batch))
        batch = tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=fields)
        metrics.update(_figures(experience, assignment, before))
        self._set_mini_batches(len(batch))
        return batch

    def _remember(self, memory: Memory) -> None:
        self._remembered = dataclasses.replace(
            self._remembered,
            step=self.global_steps,
            num_groups=self.agent_loop_manager.count_groups(),
            credit={name: float(value) for name, value in memory.items()},
        )
        remember(self._folder, self._remembered)

    def _set_mini_batches(self, num_rows: int) -> None:
        """As many optimiser updates as `trainer.minibatches` says, whatever the number of rows; verl counts prompts."""
        prompts = num_rows // self._settings.trainer.minibatches // self.config.actor_rollout_ref.rollout.n
        with open_dict(self.config):
            self.config.actor_rollout_ref.actor.ppo_mini_batch_size = prompts
            self.config.critic.ppo_mini_batch_size = prompts


class SyncTrainer(LeydenTrainer, PPOTrainerSync):
    """All rollouts of a step come from the weights before it."""


class ColocateAsyncTrainer(LeydenTrainer, PPOTrainerColocateAsync):
    """The rollouts of later steps run on through the updates, but for the time in which their servers sleep."""

    def on_sample_end(self) -> None:
        """Answers that were begun are finished first: verl's own hook would cut them off, and agents see that."""
        self.serve(held=True)
        time.sleep(SEEN_S)
        servers = [replica.servers[0] for replica in self.llm_server_manager.get_replicas()]
        ray.get([server.wait_for_requests_to_drain.remote() for server in servers])
        super().on_sample_end()


TRAINERS = {"sync": SyncTrainer, "colocate_async": ColocateAsyncTrainer}
"""By `trainer.mode`."""


def _micro_batches(config: Any, *, critic: bool) -> list[int]:
    """Of how many rows verl makes those that are not filled by tokens; a worker's rows have to be a multiple."""
    model = config.actor_rollout_ref
    parts = [
        (model.actor.use_dynamic_bsz, model.actor.ppo_micro_batch_size_per_gpu),
        (model.rollout.log_prob_use_dynamic_bsz, model.rollout.log_prob_micro_batch_size_per_gpu),
        (model.ref.log_prob_use_dynamic_bsz, model.ref.log_prob_micro_batch_size_per_gpu),
        (config.critic.use_dynamic_bsz or not critic, config.critic.ppo_micro_batch_size_per_gpu),
    ]
    return [rows for by_tokens, rows in parts if not by_tokens]


def _jagged(rows: Sequence[Tensor]) -> Tensor:
    """(B, j) or (B, j, heads), float32."""
    return torch.nested.as_nested_tensor([row.float() for row in rows], layout=torch.jagged)


def _figures(experience: Experience, assignment: Assignment, version: int) -> dict[str, float]:
    batch, importance = experience.batch, assignment.importance
    figures = {
        "leyden/reward": batch.mean_reward,
        "leyden/success": batch.success,
        "leyden/reward_error": batch.reward_error,
        "leyden/staleness": batch.staleness(version),
        "leyden/mismatch": assignment.mismatch,
        "leyden/importance_mean": importance and importance.mean,
        "leyden/importance_capped": importance and importance.capped,
        "leyden/explained_variance": assignment.explained_variance,
        "leyden/tokens": sum(sum(row.mask) for row in assignment.rows),
        "leyden/rollouts": len(batch.members),
        "leyden/failed": batch.num_failed,
        "leyden/incomplete": batch.num_incomplete,
        "leyden/silent_groups": batch.silent,
        "leyden/replaced_groups": batch.replaced,
        "leyden/replaced_silent_groups": batch.replaced_silent,
        "leyden/merge_rate": merge_rate([member.calls for group in batch.groups for member in group]),
        **{f"credit/{name}": value for name, value in assignment.memory.items()},
    }
    return {name: float(value) for name, value in figures.items() if value is not None}
