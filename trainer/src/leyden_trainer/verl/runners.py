"""Runners as actors of Ray's (`agent.runners = "ray"`): one on each node that has a CPU to give.

Placing, restarting and logs are Ray's; an actor only holds the same process that a local run starts, so that the
agent keeps its own interpreter. What a runner that died had claimed is run again when its leases end.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from leyden.errors import BadConfig, TrainingStopped
from leyden.server.listening import is_loopback
from leyden_trainer.children import Server, started_runner
from leyden_trainer.config import TrainConfig

__all__ = ["ray_runners"]

RESTARTS = 3
"""So often Ray starts an actor again that was lost."""
PLACE_S = 60.0
"""So long the cluster may take to find a CPU for each."""


class Runner:
    """Lives on a node. `run` returns, with the runner's last words, only if the runner ends by itself."""

    async def run(self, config: TrainConfig, server: Server, folder: Path, name: str) -> str:
        os.makedirs(folder, exist_ok=True)  # the run's own, or one of that name on another node
        async with started_runner(config, server, folder, log=f"{name}.log") as died:
            return await died


@contextlib.asynccontextmanager
async def ray_runners(config: TrainConfig, server: Server, folder: Path) -> AsyncGenerator[asyncio.Task[str]]:
    """Runners that claim from `server`, in the Ray that this process has joined. The task ends if one of them does.

    Raises:
        BadConfig: there are other nodes, and the server is on loopback; or no node has a CPU to give.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    if len({node["NodeManagerAddress"] for node in nodes}) > 1 and is_loopback(server.url):
        raise BadConfig(
            f'agent.runners = "ray" would start runners on {len(nodes)} nodes, and they cannot reach the server at '
            f"{server.url}: start one by `leyden serve --host` and name it as `server`"
        )
    places = placement_group([{"CPU": 1}] * len(nodes), strategy="STRICT_SPREAD")
    try:
        await _placed(places, len(nodes))
        actor: Any = ray.remote(num_cpus=1, max_restarts=RESTARTS, max_task_retries=RESTARTS)(Runner)
        where = [PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=n) for n in range(len(nodes))]
        # Ray ends an actor that nobody holds.
        actors = [actor.options(scheduling_strategy=place).remote() for place in where]
        work = [one.run.remote(config, server, folder, f"runner-{n}") for n, one in enumerate(actors)]
        died = asyncio.create_task(_first(work))
        try:
            yield died
        finally:
            died.cancel()
            for one in work:
                ray.cancel(one)
            await asyncio.to_thread(ray.wait, work, num_returns=len(work))
    finally:
        remove_placement_group(places)


async def _placed(places: Any, count: int) -> None:
    try:
        await asyncio.wait_for(places.ready(), PLACE_S)
    except TimeoutError as error:
        raise BadConfig(
            f'agent.runners = "ray" needs a free CPU on each of {count} nodes of the Ray cluster, and had none after '
            f"{PLACE_S:.0f} s; `ray status` says what holds them"
        ) from error


async def _first(work: list[Any]) -> str:
    """The last words of the first that ended."""
    try:
        done, _ = await asyncio.wait(map(_ended, work), return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    except RayError as error:
        raise TrainingStopped(f"a runner of Ray's was lost {RESTARTS + 1} times: {error}") from error


def _ended(one: Any) -> "asyncio.Future[str]":
    return asyncio.ensure_future(_awaited(one))


async def _awaited(one: Any) -> str:
    return await one
