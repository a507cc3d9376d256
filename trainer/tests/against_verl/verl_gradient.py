"""One rank of verl's FSDP2 worker on a CPU: the loss and the gradient of the rows in a file, by actor or critic.

Run as `python verl_gradient.py JOB.json`, once for each rank, with torch's RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.
"""

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import NonTensorData
from verl.trainer.config import CheckpointConfig
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig, FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.config.actor import PolicyLossConfig
from verl.workers.engine_workers import TrainingWorkerConfig
from verl.workers.utils.losses import ppo_loss

from leyden_trainer.verl.cpu import cpu_workers
from leyden_trainer.verl.critic import HEADS, critic_loss
from leyden_trainer.verl.policy_loss import NO_CLIP, loss_mode

FLOAT32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def main(job: dict[str, Any]) -> None:
    optimizer = FSDPOptimizerConfig(lr=1e-3, lr_warmup_steps=0, total_training_steps=10)
    engine = FSDPEngineConfig(
        strategy="fsdp2",
        fsdp_size=-1,
        use_torch_compile=False,
        use_dynamic_bsz=job["dynamic"],
        micro_batch_size_per_gpu=2,
        max_token_len_per_gpu=256,
        mixed_precision=FLOAT32,
    )
    if job["heads"]:
        worker = _worker(job, engine, optimizer, "value_model")
        _save(job, worker, functools.partial(critic_loss, clip=job["clip"]))
        return
    actor = FSDPActorConfig(
        strategy="fsdp2",
        rollout_n=1,
        ppo_mini_batch_size=1,
        ppo_micro_batch_size_per_gpu=2,
        policy_loss=PolicyLossConfig(loss_mode=loss_mode(job["objective"])),
        clip_ratio_low=0.2,
        clip_ratio_high=0.2,
        clip_ratio_c=NO_CLIP,
        optim=optimizer,
        fsdp_config=engine,
    )
    _save(job, _worker(job, engine, optimizer, "language_model"), functools.partial(ppo_loss, actor))


def _save(job: dict[str, Any], worker: Any, loss_function: Callable[..., Any]) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    losses: list[float] = []

    def noted(**given: Any) -> Any:
        loss, metrics = loss_function(**given)
        losses.append(loss.item() / world)
        return loss, metrics

    with worker.engine.train_mode():
        worker.engine.optimizer_zero_grad()
        worker.engine.forward_backward_batch(_rows(job, rank, world), loss_function=noted)
        gradients = {n: p.grad.full_tensor() for n, p in worker.engine.module.named_parameters() if p.grad is not None}
    head = {n: p.full_tensor() for n, p in worker.engine.module.named_parameters() if n.startswith("score")}
    torch.save({"loss": sum(losses), "gradients": gradients, "head": head}, f"{job['out']}.{rank}")


def _worker(job: dict[str, Any], engine: FSDPEngineConfig, optimizer: FSDPOptimizerConfig, kind: str) -> Any:
    worker_class, _ = cpu_workers()
    model = HFModelConfig(
        path=job["model"],
        use_remove_padding=False,
        enable_gradient_checkpointing=False,
        override_config={"attn_implementation": "sdpa", HEADS: job["heads"]},
    )
    worker = worker_class(
        TrainingWorkerConfig(
            model_type=kind,
            model_config=model,
            engine_config=engine,
            optimizer_config=optimizer,
            checkpoint_config=CheckpointConfig(),
        )
    )
    worker.reset()
    return worker


def _rows(job: dict[str, Any], rank: int, world: int) -> Any:
    """Every `world`-th row, as verl's workers are given theirs."""
    rows = job["rows"][rank::world]
    data = tu.get_tensordict(
        {name: _nested([row[name] for row in rows]) for name in rows[0]}, non_tensor_dict={"temperature": 1.0}
    )
    tu.assign_non_tensor(
        data,
        global_batch_size=len(job["rows"]),
        calculate_entropy=False,
        use_dynamic_bsz=job["dynamic"],
        micro_batch_size_per_gpu=2,
        max_token_len_per_gpu=256,
        global_token_num=NonTensorData([len(row["input_ids"]) for row in job["rows"]]),
    )
    return data


def _nested(rows: list[list[float]]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


main(json.loads(Path(sys.argv[1]).read_text()))
