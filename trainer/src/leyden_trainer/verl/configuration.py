"""verl's configuration out of Leyden's: one function builds it whole, and `leyden train --print-verl-config` prints it.

Sparse: what is not named here is verl's own default. `[trainer.verl]` is laid over it last; a name that verl does not
know is refused.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig

from leyden.errors import BadConfig
from leyden_trainer.assignment import configured_method
from leyden_trainer.config import TrainConfig
from leyden_trainer.verl import dataset
from leyden_trainer.verl.critic import HEADS, has_flash_attention
from leyden_trainer.verl.policy_loss import NO_CLIP, loss_mode

__all__ = ["verl_config"]

_WITHOUT_FLASH_ATTENTION = {
    f"{model}.{name}": value
    for model in ("actor_rollout_ref.model", "critic.model")
    for name, value in (("override_config.attn_implementation", "sdpa"), ("use_remove_padding", False))
}
"""verl asks for flash-attn otherwise; rows without padding need it."""
_PLACES = 10**6
"""More groups than any run takes; see `dataset.Places`."""
_KL = {"k1": "k1+", "k2": "k2", "k3": "k3"}
"""Leyden's names and verl's. The gradient of verl's plain k1 has mean 0; k1+ has ours."""


def verl_config(config: TrainConfig, *, folder: Path, model: Path, num_heldout: int, on_cpu: bool) -> DictConfig:
    """The whole of it, resolved as far as Hydra goes.

    Args:
        config: Leyden's.
        folder: the run's; checkpoints go to its `checkpoints/`.
        model: a folder that transformers loads.
        num_heldout: how many held-out tasks there are.
        on_cpu: with the CPU's workers and settings.

    Raises:
        BadConfig: `[trainer.verl]` has a name or a value that verl refuses, or keeps adapters apart.
    """
    values = _common(config, folder, model, num_heldout) | (_cpu() if on_cpu else {})
    if not has_flash_attention():
        values |= _WITHOUT_FLASH_ATTENTION
    own = dict(_flat(config.trainer.verl))
    with initialize_config_module("verl.trainer.config", version_base=None):
        try:
            found = compose("ppo_trainer", [*(_line(*pair) for pair in values.items()), *_strict(own)])
        except HydraException as error:
            raise BadConfig(f"[trainer.verl] is refused by verl: {error}; {', '.join(own) or 'it is empty'}") from error
    if not found.actor_rollout_ref.model.lora.merge:
        raise BadConfig(
            "[trainer.verl] actor_rollout_ref.model.lora.merge is false: agents' requests reach vLLM over HTTP, where "
            "an adapter that is not merged does nothing, so nothing would be learnt; leave it out"
        )
    return found


def _common(config: TrainConfig, folder: Path, model: Path, num_heldout: int) -> dict[str, Any]:
    trainer, length = config.trainer, config.model.context_length
    return {
        "trainer.project_name": "leyden",
        "trainer.experiment_name": folder.name,
        "trainer.logger": [],
        "trainer.v1.trainer_mode": trainer.mode,
        # In verl's count a prompt of this step spans one version. "wait" drops no long rollout in favour of short ones.
        "trainer.v1.sampler.max_off_policy_threshold": trainer.max_staleness + 1,
        "trainer.v1.sampler.max_off_policy_strategy": "wait",
        "trainer.nnodes": 1,
        "trainer.n_gpus_per_node": 1,
        "trainer.total_training_steps": trainer.steps,
        "trainer.total_epochs": 1,
        "trainer.save_freq": trainer.evaluate_every,
        "trainer.test_freq": trainer.evaluate_every,
        "trainer.val_before_train": True,
        "trainer.resume_mode": "auto",
        "trainer.default_local_dir": str(folder / "checkpoints"),
        "trainer.max_actor_ckpt_to_keep": 1,
        "trainer.max_critic_ckpt_to_keep": 1,
        "data.custom_cls.path": f"pkg://{dataset.__name__}",
        "data.custom_cls.name": "Places",
        "data.train_files": _PLACES,
        "data.val_files": num_heldout,
        "data.train_batch_size": trainer.tasks_per_step,
        "data.shuffle": False,
        "data.dataloader_num_workers": 0,
        "data.max_prompt_length": length,
        "data.max_response_length": length,
        "actor_rollout_ref.model.path": str(model),
        **_lora(config.model.lora_rank or 0),
        "actor_rollout_ref.model.enable_gradient_checkpointing": False,
        **_rollout(config),
        **_actor(config),
        "algorithm.adv_estimator": "grpo",  # a name that verl knows; the advantages are ours
        **_critic(config, model),
        "algorithm.rollout_correction.bypass_mode": False,  # the check of sampler against trainer needs both
        "reward.num_workers": 0,  # rewards come with the rollouts; each worker would be a process that waits
    }


def _lora(rank: int) -> dict[str, Any]:
    """Adapters as the local backend's. Merged into the weights that vLLM gets: it would apply others to verl's own
    requests alone, and agents' come over HTTP."""
    model = "actor_rollout_ref.model"
    return {f"{model}.lora_rank": rank, f"{model}.lora_alpha": 2 * rank, f"{model}.lora.merge": True}


def _rollout(config: TrainConfig) -> dict[str, Any]:
    rollout = "actor_rollout_ref.rollout"
    return {
        f"{rollout}.name": "vllm",
        f"{rollout}.n": config.trainer.rollouts_per_task,
        f"{rollout}.temperature": config.sampling.temperature,
        f"{rollout}.top_p": config.sampling.top_p,
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.max_model_len": config.model.context_length,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": 8,
        f"{rollout}.load_format": "auto",
        f"{rollout}.engine_kwargs.vllm.enable_auto_tool_choice": True,
        f"{rollout}.engine_kwargs.vllm.tool_call_parser": "hermes",
    }


def _actor(config: TrainConfig) -> dict[str, Any]:
    actor, trainer = "actor_rollout_ref.actor", config.trainer
    return {
        f"{actor}.strategy": "fsdp2",
        f"{actor}.fsdp_config.strategy": "fsdp2",
        f"{actor}.ppo_mini_batch_size": trainer.tasks_per_step,
        f"{actor}.ppo_micro_batch_size_per_gpu": 8,
        f"{actor}.ppo_epochs": trainer.epochs,
        f"{actor}.policy_loss.loss_mode": loss_mode(config.loss.objective),
        f"{actor}.clip_ratio_low": config.loss.clip_low,
        f"{actor}.clip_ratio_high": config.loss.clip_high,
        f"{actor}.clip_ratio_c": config.loss.dual_clip or NO_CLIP,
        f"{actor}.entropy_coeff": config.loss.entropy,
        f"{actor}.use_kl_loss": config.loss.kl > 0,
        f"{actor}.kl_loss_coef": config.loss.kl,
        f"{actor}.kl_loss_type": _KL[config.loss.kl_estimator],
        f"{actor}.optim.lr": config.optimizer.learning_rate,
        f"{actor}.optim.lr_warmup_steps": config.optimizer.warmup_steps,
        # verl's constant schedule begins a warm-up at 0, so that the first update is none. Its cosine, counted from 1
        # and never below the whole rate, is the local backend's: 1/n, 2/n, ... of the rate, then all of it.
        f"{actor}.optim.lr_scheduler_type": "cosine",
        f"{actor}.optim.min_lr_ratio": 1.0,
        f"{actor}.optim.zero_indexed_step": False,
        f"{actor}.optim.betas": config.optimizer.betas,
        f"{actor}.optim.weight_decay": config.optimizer.weight_decay,
        f"{actor}.optim.clip_grad": config.optimizer.max_grad_norm,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 8,
        "actor_rollout_ref.ref.strategy": "fsdp2",
        "actor_rollout_ref.ref.fsdp_config.strategy": "fsdp2",
    }


def _critic(config: TrainConfig, model: Path) -> dict[str, Any]:
    method = configured_method(config)
    return {
        "critic.enable": method.needs_critic,
        "critic.strategy": "fsdp2",
        "critic.fsdp.strategy": "fsdp2",
        "critic.model.path": config.critic.path or str(model),
        f"critic.model.override_config.{HEADS}": method.heads,
        "critic.model.enable_gradient_checkpointing": False,
        "critic.optim.lr": config.critic.learning_rate,
        "critic.optim.weight_decay": config.optimizer.weight_decay,
        "critic.ppo_mini_batch_size": config.trainer.tasks_per_step,
        "critic.ppo_micro_batch_size_per_gpu": 8,
        "critic.ppo_epochs": config.trainer.epochs,
    }


def _cpu() -> dict[str, Any]:
    """What a machine without a GPU needs: no CUDA kernels, float32 throughout, few processes, weights by `cpu_vllm`."""
    rollout, actor = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
    float32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    return {
        "trainer.device": "cpu",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,  # each is a process
        f"{actor}.use_torch_compile": False,
        f"{actor}.fsdp_config.use_torch_compile": False,
        f"{actor}.fsdp_config.mixed_precision": float32,
        "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.ref.fsdp_config.mixed_precision": float32,
        "critic.fsdp.use_torch_compile": False,
        "critic.fsdp.mixed_precision": float32,
        f"{rollout}.dtype": "float32",
        f"{rollout}.enforce_eager": True,
        f"{rollout}.enable_sleep_mode": False,
        f"{rollout}.max_num_seqs": 64,
        f"{rollout}.agent.num_workers": 1,
        f"{rollout}.engine_kwargs.vllm.worker_extension_cls": "leyden_trainer.verl.cpu_vllm.CpuWorkerExtension",
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _line(name: str, value: Any) -> str:
    """Ours may name what verl's files leave out: its dataclasses know them."""
    return f"++{name}={_text(value)}"


def _strict(own: Mapping[str, Any]) -> list[str]:
    """The user's must be known to verl's files; a leading + says that it is added on purpose, as in Hydra."""
    return [f"{name}={_text(value)}" for name, value in own.items()]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_text(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    return json.dumps(value)
