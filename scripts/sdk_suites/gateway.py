"""A tiny real model behind our gateway, for a suite that needs one to answer; each run has a rollout of its own."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.types import Endpoint, Outcome, Reward, Rollout, Sampling

__all__ = ["Gateway", "gateway"]

HERE = Path(__file__).parent
Told = TypeVar("Told")


@dataclass(frozen=True)
class Gateway:
    """A server, and the key with which its store is asked."""

    url: str
    operator_key: str

    def begin(self, rollout_id: str) -> str:
        """The key of a new rollout that runs; its answers are short, and their seeds the same in every rollout."""

        async def claimed(store: HttpStore) -> str:
            sampling = Sampling(temperature=1.0, max_tokens=24, seed=0)
            await store.queue([Rollout(id=rollout_id, mode="train", sampling=sampling)])
            (claim,) = await store.claim("sdk-suites", limit=1, lease_s=3600)
            return claim.key or ""

        return self._ask(claimed)

    def finish(self, rollout_id: str, call_ids: Sequence[str] | None) -> tuple[int, tuple[str, ...]]:
        """How many calls are on record, and what the rollout lacks for training.

        Args:
            rollout_id: of `begin`.
            call_ids: the calls that the hooks saw; None without hooks.
        """

        async def finished(store: HttpStore) -> tuple[int, tuple[str, ...]]:
            outcome = Outcome(
                rollout_id=rollout_id,
                attempt=1,
                runner="sdk-suites",
                status="succeeded",
                rewards=(Reward(rollout_id=rollout_id, value=1),),
                call_ids=None if call_ids is None else tuple(call_ids),
            )
            rollout = await store.finish(outcome)
            return len(await store.calls([rollout_id])), rollout.incomplete

        return self._ask(finished)

    def _ask(self, question: Callable[[HttpStore], Awaitable[Told]]) -> Told:
        async def asked() -> Told:
            store = HttpStore(self.url, self.operator_key)
            try:
                return await question(store)
            finally:
                await store.close()

        return asyncio.run(asked())

    def publish(self, policy_url: str) -> None:
        """Let the model at this address be the policy."""
        self._ask(lambda store: store.publish(Endpoint(url=policy_url, model="tiny")))


@contextmanager
def gateway(trainer_python: Path) -> Generator[Gateway]:
    """The model runs in a process of the trainer's environment, the gateway in this one."""
    command = [trainer_python, HERE / "tiny_policy.py"]
    with (
        TemporaryDirectory() as folder,
        BackgroundServer(Path(folder) / "store.sqlite") as server,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as policy,
    ):
        assert policy.stdout is not None
        url = policy.stdout.readline().strip()
        if not url:
            raise SystemExit(f"{trainer_python} could not serve a model; what it printed above says why")
        opened = Gateway(server.url, server.key)
        opened.publish(url)
        yield opened
        policy.communicate()  # closes its input, at which it ends
