"""The local backend: model, sampler, policy server and learner in one process, on a CPU, an Apple or one CUDA GPU."""

import asyncio
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from leyden.errors import BadConfig
from leyden_trainer.backend import BEFORE_WARM_START, StepStats
from leyden_trainer.config import TrainConfig
from leyden_trainer.demonstrations import Demonstration
from leyden_trainer.local.checkpoint import load_latest, save_model, save_state
from leyden_trainer.local.critic import Critic, CriticSettings
from leyden_trainer.local.learner import Learner, LearnerConfig
from leyden_trainer.local.model import context_length, load_model
from leyden_trainer.local.parameters import fold_adapters, has_adapters, train_parameters
from leyden_trainer.local.sampler import Sampler
from leyden_trainer.local.serving import ServedModel, ServingOptions, device_of, open_server
from leyden_trainer.local.source import model_folder
from leyden_trainer.local.warm_start import WarmStart, demonstrated_rows, learn
from leyden_trainer.rows import RowScores, TrainingRow

__all__ = ["LocalBackend"]

WARM = "warm"
"""The checkpoint after the warm start. A run that has it starts from it, with new adapters if it trains those."""


@dataclass(frozen=True)
class LocalBackend(ServedModel):
    """Implements `leyden_trainer.backend.Backend`. Sampler and learner share one module and never run at once."""

    folder: Path
    learner: Learner
    resumed: dict[str, Any] | None
    """The loop's record of the saved state that was found in the folder."""

    @classmethod
    def prepare(
        cls, config: TrainConfig, folder: Path, *, cache: Path, heads: int = 0, pip_args: Sequence[str] = ()
    ) -> Self:
        """Load the model, a critic with so many heads (0: none), and the newest state in `folder` if there is one.

        Raises:
            BadConfig: the model cannot be had or loaded.
        """
        device = device_of(config.model.device)
        torch.manual_seed(config.seed)
        source = model_folder(config.model.path, cache=cache, pip_args=pip_args)
        warm = folder / "checkpoints" / WARM
        model, tokenizer = load_model(
            warm if warm.exists() else source, device=device, chat_template=config.model.chat_template
        )
        parameters = train_parameters(
            model, layers=config.model.layers, lora_rank=config.model.lora_rank, seed=config.seed
        )
        critic = _critic(config, model, tokenizer, heads, cache=cache, pip_args=pip_args) if heads else None
        learner = Learner(model, parameters, _learner_config(config), critic)
        saved = load_latest(folder / "state", device=device)
        if saved is not None:
            learner.load(saved.learner)
        models = [model, critic.model] if critic is not None and critic.model is not None else [model]
        length = min(config.model.context_length, *map(context_length, models))
        first = BEFORE_WARM_START if config.warm_start and not warm.exists() else 0
        version = saved.record["step"] if saved else first
        sampler = Sampler(model, context_length=length, max_rows=config.agent.concurrency, version=version)
        options = ServingOptions(host=config.trainer.host, port=config.trainer.port, key=secrets.token_urlsafe(16))
        server = open_server(sampler, tokenizer, source.name, options)
        return cls(model, tokenizer, sampler, server, folder, learner, saved.record if saved else None)

    async def warm_start(self, demonstrations: Sequence[Demonstration], config: TrainConfig) -> list[float]:
        """See `Backend.warm_start`."""
        stopping = threading.Event()  # a thread cannot be cancelled, and this one would work on for minutes
        try:
            return await asyncio.to_thread(self._warm_start, demonstrations, config, stopping)
        finally:
            stopping.set()

    def _warm_start(
        self, demonstrations: Sequence[Demonstration], config: TrainConfig, stopping: threading.Event
    ) -> list[float]:
        if self.sampler.version != BEFORE_WARM_START:
            return []
        rows = demonstrated_rows(demonstrations, self.tokenizer, self.server.stop_ids, self.sampler.context_length)
        parameters = self.learner.parameters
        start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self.sampler.pause()
        losses = learn(self.model, parameters, rows, _warm_start_config(config), stopping=stopping)
        save_model(self.model, self.tokenizer, self.folder / "checkpoints" / WARM)
        if has_adapters(self.model):
            fold_adapters(self.model, start)
        self.learner.refer_to_model()
        self.sampler.resume(0)
        return losses

    def tokenizer_file(self) -> str | None:
        """Write the tokenizer into the run's folder, for those who show tokens as text; None if it is a slow one."""
        if not isinstance(self.tokenizer, PreTrainedTokenizerFast):
            return None
        path = self.folder.absolute() / "tokenizer.json"
        self.tokenizer.backend_tokenizer.save(str(path))
        return str(path)

    async def score(self, rows: Sequence[TrainingRow]) -> list[RowScores]:
        """See `Backend.score`."""
        return await asyncio.to_thread(self._score, rows)

    def _score(self, rows: Sequence[TrainingRow]) -> list[RowScores]:
        self.sampler.pause()
        try:
            return self.learner.score(rows)
        finally:
            self.sampler.resume(self.learner.num_steps)

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


def _critic(
    config: TrainConfig,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    heads: int,
    *,
    cache: Path,
    pip_args: Sequence[str],
) -> Critic:
    wanted, model = config.critic, None
    if wanted.kind == "model":
        path = wanted.path or config.model.path
        model, own = load_model(model_folder(path, cache=cache, pip_args=pip_args), device=policy.device)
        if own.get_vocab() != tokenizer.get_vocab():
            raise BadConfig(
                f"the critic {path} has another vocabulary than {config.model.path}; it reads the same tokens"
            )
    settings = CriticSettings(
        learning_rate=wanted.learning_rate,
        clip=wanted.clip,
        backbone=wanted.backbone,
        weight_decay=config.optimizer.weight_decay,
    )
    width = (model or policy).config.get_text_config(decoder=True).hidden_size
    return Critic(settings, heads=heads, width=width, device=policy.device, model=model)


def _warm_start_config(config: TrainConfig) -> WarmStart:
    assert config.warm_start is not None
    return WarmStart(
        epochs=config.warm_start.epochs,
        batch=config.warm_start.batch,
        learning_rate=config.warm_start.learning_rate,
        weight_decay=config.optimizer.weight_decay,
        max_grad_norm=config.optimizer.max_grad_norm,
        micro_batch_tokens=config.trainer.micro_batch_tokens,
        seed=config.seed,
    )


def _learner_config(config: TrainConfig) -> LearnerConfig:
    return LearnerConfig(
        learning_rate=config.optimizer.learning_rate,
        warmup_steps=config.optimizer.warmup_steps,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
        max_grad_norm=config.optimizer.max_grad_norm,
        loss=config.loss,
        minibatches=config.trainer.minibatches,
        epochs=config.trainer.epochs,
        seed=config.seed,
        temperature=config.sampling.temperature,
        micro_batch_tokens=config.trainer.micro_batch_tokens,
        max_mismatch=config.trainer.max_mismatch,
    )
