"""`leyden eval`: run the agent on tasks with a checkpoint's policy, several tries each, and say how good it is.

It is the evaluation of training with more to ask: other tasks, sampled tries, and two checkpoints against each other.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from leyden.client import HttpStore
from leyden.errors import TrainingStopped
from leyden.types import Endpoint
from leyden_trainer.children import opened_server, started_runner
from leyden_trainer.config import TrainConfig
from leyden_trainer.evaluation import Evaluation, Tries
from leyden_trainer.experience import Member, finish_all, read_members
from leyden_trainer.local.serving import ServedModel, ServingOptions
from leyden_trainer.tasks import evaluation_rollouts

__all__ = ["Checkpoint", "evaluate"]


@dataclass(frozen=True)
class Checkpoint:
    """A policy to evaluate: a folder that transformers loads."""

    name: str
    folder: Path


async def evaluate(
    config: TrainConfig,
    checkpoints: Sequence[Checkpoint],
    tasks: Sequence[JsonValue],
    tries: Tries,
    folder: Path,
    *,
    server_key: str | None,
    progress: Callable[[Checkpoint, int], None],
) -> list[Evaluation]:
    """Evaluate each checkpoint in turn, on one server and runner; their rollouts stay in `folder`'s store.

    Args:
        progress: hears how many more rollouts of a checkpoint have ended; 0 when it begins.

    Raises:
        LeydenError: a checkpoint cannot be loaded, the runner died, or another policy answered.
    """
    async with opened_server(config, folder, server_key) as server, contextlib.AsyncExitStack() as stack:
        store = HttpStore(server.url, server.key)
        stack.push_async_callback(store.close)
        died = await stack.enter_async_context(started_runner(config, server, folder)) if config.agent.runners else None
        found: list[Evaluation] = []
        for number, checkpoint in enumerate(checkpoints):
            progress(checkpoint, 0)
            rollouts = evaluation_rollouts(
                config,
                tasks,
                run=folder.name,
                name=f"c{number}",
                step=number,
                tries=tries.count,
                temperature=tries.temperature,
            )
            async with _published(config, checkpoint, store, number):
                finished = await finish_all(
                    store, rollouts, died, lambda count, checkpoint=checkpoint: progress(checkpoint, count)
                )
            members = await read_members(store, finished, max_tokens=None)
            _check_policy(members, number)
            found.append(_evaluation(checkpoint, members, tries))
    return found


@contextlib.asynccontextmanager
async def _published(
    config: TrainConfig, checkpoint: Checkpoint, store: HttpStore, version: int
) -> AsyncGenerator[Endpoint]:
    options = ServingOptions(
        device=config.model.device,
        context_length=config.model.context_length,
        max_rows=config.agent.concurrency,
        host=config.trainer.host,
        port=config.trainer.port,
        key=secrets.token_urlsafe(16),
    )
    template = config.model.chat_template
    model = await asyncio.to_thread(
        ServedModel.load, checkpoint.folder, options, version=version, chat_template=template
    )
    async with model.serving():
        endpoint = model.endpoint(version)
        await store.publish(endpoint)
        yield endpoint
        await store.publish(endpoint.model_copy(update={"state": "held"}))


def _check_policy(members: Sequence[Member], version: int) -> None:
    for member in members:
        seen = {v for transition in member.transitions for v in transition.versions if v is not None}
        if seen - {version}:
            raise TrainingStopped(
                f"rollout {member.rollout.id} was answered by versions {sorted(seen)}, expected only {version}: "
                "another run publishes to this server; give the evaluation its own"
            )


def _evaluation(checkpoint: Checkpoint, members: Sequence[Member], tries: Tries) -> Evaluation:
    rewards = [None if member.incomplete else member.total for member in members]
    return Evaluation(
        name=checkpoint.name,
        rewards=tuple(tuple(rewards[at : at + tries.count]) for at in range(0, len(rewards), tries.count)),
        success_at=tries.success_at,
        failed=sum(member.rollout.status == "failed" for member in members),
    )
