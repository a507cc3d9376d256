"""Runners as actors of a real Ray of two nodes on this machine; the agent is a function that calls no model."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from leyden.client import HttpStore
from leyden.errors import BadConfig, TrainingStopped
from leyden.types import Rollout
from leyden_trainer.children import started_server
from leyden_trainer.config import TrainConfig, make_config
from leyden_trainer.experience import finish_all
from leyden_trainer.verl.runners import ray_runners

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.xdist_group("test_ray_runners"),  # the tests share a Ray
]

AGENT = """
import os, pathlib

def solve(task):
    with open(task["begun"], "w") as begun:
        begun.write(f"{actor(os.getpid())}\\n")
    with open(task["gate"], "rb", buffering=0) as gate:
        gate.read(1)
    return actor(os.getpid())

def actor(pid):
    while not pathlib.Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::Runner"):
        pid = int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid

def score(task, result):
    return 1.0
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two nodes, each with two CPUs."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()
    cluster.shutdown()


def configured(folder: Path) -> TrainConfig:
    (folder / "agent.py").write_text(AGENT)
    values = {
        "model": {"path": "model"},
        "agent": {"function": "agent.py:solve", "runners": "ray", "concurrency": 2, "isolation": "process"},
        "reward": {"function": "agent.py:score"},
        "tasks": {"train": "t", "heldout": "h"},
        "trainer": {"backend": "verl"},
    }
    return make_config(values, folder=folder, source="test")


class Agents:
    """Speaks with the agents by two named pipes: each says under which actor it has begun, then waits."""

    def __init__(self, folder: Path) -> None:
        self.task = {name: str(folder / name) for name in ("begun", "gate")}
        for path in self.task.values():
            os.mkfifo(path)
        # A pipe that is open for both never ends.
        self._begun, self._gate = (os.fdopen(os.open(path, os.O_RDWR), "r+b", 0) for path in self.task.values())

    def begun(self, count: int) -> set[int]:
        """The actors, by process id, of the next so many."""
        return {int(self._begun.readline()) for _ in range(count)}

    def go(self) -> None:
        """Also those that begin from now on."""
        self._gate.write(b"." * 64)

    def close(self) -> None:
        self._begun.close()
        self._gate.close()


async def test_each_node_has_a_runner_and_one_whose_actor_is_killed_comes_back(cluster: None, tmp_path: Path) -> None:
    """Four rollouts at a time need both runners; those of the killed one are run again, by an actor in its place."""
    agents = Agents(tmp_path)
    rollouts = [Rollout(id=f"r{n}", task=agents.task) for n in range(4)]
    async with started_server(tmp_path) as server:
        store = HttpStore(server.url, server.key)
        async with ray_runners(configured(tmp_path), server, tmp_path) as died:
            finishing = asyncio.create_task(finish_all(store, rollouts, died, lambda count: None))
            one, other = await asyncio.to_thread(agents.begun, 4)
            os.kill(one, signal.SIGKILL)
            await asyncio.to_thread(agents.begun, 2)
            agents.go()
            finished = await finishing
        await store.close()
    assert [rollout.status for rollout in finished] == ["succeeded"] * 4
    ran = {rollout.result for rollout in finished}
    assert other in ran
    assert one not in ran
    assert len(ran) == 2
    agents.close()
    assert {name for name in os.listdir(tmp_path) if name.startswith("runner-")} == {"runner-0.log", "runner-1.log"}


async def test_a_runner_that_ends_by_itself_stops_training_with_its_last_words(cluster: None, tmp_path: Path) -> None:
    """As one that is no actor does."""
    config = configured(tmp_path)
    (tmp_path / "agent.py").write_text("def solve(task):\n    return task\n")  # no reward function
    async with started_server(tmp_path) as server:
        store = HttpStore(server.url, server.key)
        async with ray_runners(config, server, tmp_path) as died:
            with pytest.raises(TrainingStopped, match="score"):
                await finish_all(store, [Rollout(id="r")], died, lambda count: None)
        await store.close()


async def test_a_cluster_without_a_free_cpu_is_refused(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than waited for without end."""
    monkeypatch.setattr("leyden_trainer.verl.runners.PLACE_S", 1.0)
    held = [ray.remote(num_cpus=2)(Held).remote() for _ in range(2)]
    ray.get([one.ready.remote() for one in held])
    async with started_server(tmp_path) as server:
        with pytest.raises(BadConfig, match="needs a free CPU on each of 2 nodes"):
            async with ray_runners(configured(tmp_path), server, tmp_path):
                pass


class Held:
    def ready(self) -> None:
        """All CPUs of a node are taken."""
