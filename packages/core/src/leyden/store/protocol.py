"""What a store can do: few verbs, all idempotent by id, acknowledged only when durable."""

from collections.abc import Sequence
from typing import Protocol

from leyden.types import Call, Claim, Credit, Endpoint, Mode, Outcome, Page, Reward, Rollout, RolloutStatus, Run, Step

__all__ = ["Store"]


class Store(Protocol):
    """Keeps rollouts, calls and rewards. `SqlStore` implements it; `HttpStore` speaks to a server around one.

    Any method may raise `Unreachable`. What a method did is committed when it returns: it survives `kill -9`.
    """

    async def queue(self, rollouts: Sequence[Rollout]) -> None:
        """Add rollouts with status queued, all or none. The same again is a no-op; other content is a `Conflict`."""
        ...

    async def claim(self, runner: str, *, limit: int, lease_s: float, wait_s: float = 0.0) -> list[Claim]:
        """Take up to `limit` queued rollouts, oldest first, each as its next attempt. Waits up to `wait_s` for one.

        A claim that is cancelled keeps nothing: what it may have taken is released.
        """
        ...

    async def heartbeat(self, runner: str, held: Sequence[tuple[str, int]], *, lease_s: float) -> list[str]:
        """Renew the leases of (rollout id, attempt) pairs; returns the ids that this runner still holds."""
        ...

    async def record(self, calls: Sequence[Call]) -> None:
        """Merge (partial) records of calls, all or none. `Conflict` if a field comes again with other content,
        `NotFound` if a rollout is unknown, `BadInput` if tokens and logprobs disagree in length."""
        ...

    async def reward(self, rewards: Sequence[Reward]) -> None:
        """Add rewards, all or none, idempotent by id; `Conflict` for the same id with another value.

        An agent's own (`source` "agent") come while its attempt runs, else `LeaseLost`; a grader's until the rollout
        was consumed (it has credits), else `Conflict`.
        """
        ...

    async def finish(self, outcome: Outcome) -> Rollout:
        """End an attempt. Waits up to `outcome.wait_s` for the named calls to have terminal records.

        A train or eval rollout without a rollout reward, with a missing or dangling call, or with an answer that lacks
        token ids or logprobs ends incomplete, with the reasons. "lost" queues the next attempt, or ends incomplete
        when `max_attempts` is reached. The same outcome twice is a no-op.

        Raises:
            LeaseLost: the attempt is no longer this runner's.
        """
        ...

    async def release(self, runner: str, held: Sequence[tuple[str, int]]) -> None:
        """Give claimed rollouts back (a runner that stops): queued again, the attempt not counted in `max_attempts`.

        The next claim has the next number: a key of the attempt that was given back opens nothing any more.
        """
        ...

    async def wait(self, rollout_ids: Sequence[str], *, timeout_s: float) -> list[Rollout]:
        """Those of the rollouts that have finished, as soon as there is at least one; [] when the time is over."""
        ...

    async def rollout(self, rollout_id: str) -> Rollout:
        """One rollout; `NotFound` if there is none."""
        ...

    async def rollouts(
        self,
        *,
        after: int = 0,
        limit: int = 100,
        run: str | None = None,
        group_id: str | None = None,
        mode: Mode | None = None,
        status: RolloutStatus | None = None,
    ) -> Page:
        """Rollouts in the order in which they were queued, after a cursor."""
        ...

    async def calls(self, rollout_ids: Sequence[str]) -> list[Call]:
        """All calls of the rollouts' current attempts, by rollout as asked for, then by started_at."""
        ...

    async def call(self, call_id: str) -> Call:
        """One call; `NotFound` if there is none."""
        ...

    async def rewards(self, rollout_ids: Sequence[str]) -> list[Reward]:
        """All rewards of the rollouts' current attempts, in the order in which they came."""
        ...

    async def publish(self, endpoint: Endpoint) -> None:
        """Add or replace the endpoint with this id."""
        ...

    async def endpoints(self) -> list[Endpoint]:
        """All endpoints, newest published first."""
        ...

    async def credit(self, credits: Sequence[Credit]) -> None:
        """Keep the advantages that calls were trained with, idempotent by (call, run, step); the latest one stays."""
        ...

    async def credits(self, rollout_ids: Sequence[str]) -> list[Credit]:
        """The credits of the rollouts' calls."""
        ...

    async def begin(self, run: Run, *, after_step: int = 0) -> None:
        """Add the run, or replace what is known of it. Its steps after `after_step` are dropped: a run that is resumed
        does them again."""
        ...

    async def note(self, steps: Sequence[Step]) -> None:
        """Keep what runs measured. Metrics of a step that is known are added to it, the latest value of a name stays.

        Raises:
            NotFound: a run was never begun.
        """
        ...

    async def runs(self) -> list[Run]:
        """All runs, the newest first."""
        ...

    async def steps(self, run: str) -> list[Step]:
        """The steps of a run, in order; none for a run that is not known."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of files and connections."""
        ...
