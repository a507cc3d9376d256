"""A model behind the policy server: what evaluation and `leyden serve-model` need of the local backend, no learner."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leyden.types import Endpoint
from leyden_trainer.local.model import best_device, context_length, load_model
from leyden_trainer.local.policy_server import PolicyServer
from leyden_trainer.local.sampler import Sampler

__all__ = ["ServedModel", "ServingOptions", "device_of", "open_server"]


@dataclass(frozen=True)
class ServingOptions:
    """How a model is sampled and where it is served."""

    device: str = "auto"
    """cpu, mps, cuda, or auto: the best that there is."""
    context_length: int = 2048
    """Longest prompt and answer together, in tokens; the model's own bound stays."""
    max_rows: int = 32
    """Answers that are sampled at once."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: the system chooses."""
    key: str | None = None
    """The bearer key that opens it; None, on loopback only: open to every process of this machine."""


@dataclass(frozen=True)
class ServedModel:
    """A model with its sampler and server; served only within `serving`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sampler: Sampler
    server: PolicyServer

    @classmethod
    def load(
        cls, folder: Path, options: ServingOptions, *, version: int = 0, chat_template: Path | None = None
    ) -> Self:
        """Load a folder that transformers loads; `chat_template` is a file that stands in for the folder's own.

        Raises:
            BadConfig: it cannot be loaded or run exactly, or the port is in use.
        """
        model, tokenizer = load_model(folder, device=device_of(options.device), chat_template=chat_template)
        length = min(options.context_length, context_length(model))
        sampler = Sampler(model, context_length=length, max_rows=options.max_rows, version=version)
        return cls(model, tokenizer, sampler, open_server(sampler, tokenizer, folder.name, options))

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Serve the model for the time of the block."""
        self.server.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.sampler.close)
            await asyncio.to_thread(self.server.stop)

    def endpoint(self, version: int) -> Endpoint:
        """Where the model is served, with its weights' version."""
        return Endpoint(
            url=self.server.url,
            model=self.server.model_name,
            version=version,
            context_length=self.sampler.context_length,
            key=self.server.key,
        )


def device_of(name: str) -> torch.device:
    """The device that a configuration names."""
    return best_device() if name == "auto" else torch.device(name)


def open_server(
    sampler: Sampler, tokenizer: PreTrainedTokenizerBase, name: str, options: ServingOptions
) -> PolicyServer:
    """The server of a sampler, its port taken; it answers once it is started."""
    return PolicyServer(sampler, tokenizer, model_name=name, key=options.key, host=options.host, port=options.port)
