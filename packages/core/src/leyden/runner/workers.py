"""Which worker runs a job: one that all share, or one for each rollout. Dead ones are replaced, and worn ones too.

A sync agent that hangs cannot be stopped; its thread stays. A worker with too many of those takes no more jobs: it is
ended when its other runs have, while a fresh one goes on.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from leyden.runner.messages import Done, Job, Setup
from leyden.runner.process import WorkerProcess

__all__ = ["MOST_ABANDONED", "Workers"]

MOST_ABANDONED = 8


class Workers:
    """The workers of one runner."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._shared: WorkerProcess | None = None
        self._worn: set[WorkerProcess] = set()
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Start the shared worker, if they share one.

        Raises:
            BadConfig: the agent cannot be loaded.
        """
        if self._setup.shared:
            self._shared = await WorkerProcess.start(self._setup)

    async def run(self, job: Job) -> Done:
        """Run the agent once; cancelling it cancels the run."""
        async with self._worker(job) as worker:
            return await worker.run(job)

    async def stop(self) -> None:
        """End all workers and their runs."""
        workers = [*self._worn, *([self._shared] if self._shared else [])]
        await asyncio.gather(*(worker.stop() for worker in workers))

    @contextlib.asynccontextmanager
    async def _worker(self, job: Job) -> AsyncGenerator[WorkerProcess]:
        worker = await self._share() if self._setup.shared else await self._own(job)
        try:
            yield worker
        finally:
            if worker is not self._shared and not worker.busy:
                self._worn.discard(worker)
                await worker.stop()

    async def _share(self) -> WorkerProcess:
        async with self._starting:
            old = self._shared
            if old is not None and old.alive and old.abandoned <= MOST_ABANDONED:
                return old
            self._shared = await WorkerProcess.start(self._setup)
            if old is not None and old.busy:
                self._worn.add(old)
            elif old is not None:
                await old.stop()
            return self._shared

    async def _own(self, job: Job) -> WorkerProcess:
        return await WorkerProcess.start(self._setup, self._routes(job) if job.gateway else None)

    def _routes(self, job: Job) -> dict[str, str]:
        """For clients that are not Python's `openai`, in this process or in those that it starts."""
        url, key = f"{self._setup.server_url}/v1", job.key or ""
        return {
            "OPENAI_BASE_URL": url,
            "OPENAI_API_BASE": url,
            "OPENAI_API_KEY": key,
            "ANTHROPIC_BASE_URL": self._setup.server_url or "",  # its clients add /v1
            "ANTHROPIC_API_KEY": key,
            # The user's own would travel with it.
            "ANTHROPIC_AUTH_TOKEN": "",
            "ANTHROPIC_CUSTOM_HEADERS": "",
        }
