"""From queued groups to a batch: wait for the rollouts, read what they did, set aside what may not be trained on.

The rules are DESIGN.md's ("Failures"): a failed rollout is data, an incomplete one is counted and never trained on, a
group is compared among the members that it has if these are at least two, and a lost group is replaced, up to a cap.
So is, if asked for, a group without a signal: dynamic sampling (DAPO, arXiv:2503.14476).
"""

import asyncio
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

from leyden.errors import TrainingStopped
from leyden.store.protocol import Store
from leyden.types import Call, Endpoint, Reward, Rollout
from leyden_trainer.judge import JudgeCost
from leyden_trainer.transitions import IncompleteRollout, Transition, transitions

__all__ = [
    "POLICY",
    "MAX_SILENT",
    "Batch",
    "Collecting",
    "Member",
    "check_complete",
    "collect_batch",
    "finish_all",
    "hold_policies",
    "is_policy",
    "read_members",
    "standard_error",
    "take_over",
]

SUCCESS = 1.0
"""What a reward has to be to count as success; `leyden eval --success` may take another."""

POLICY = "policy"
"""The id of the endpoint that a trainer publishes; with several servers they are numbered, "policy-0" and so on."""
WAIT_S = 30.0
MAX_SILENT = 3
"""So many times the batch's groups may be replaced for want of a signal; then the batch is smaller."""


@dataclass(frozen=True)
class Member:
    """One finished rollout of a group with all that it left. `incomplete` is empty if it may be trained on."""

    rollout: Rollout
    calls: tuple[Call, ...]
    rewards: tuple[Reward, ...]
    transitions: tuple[Transition, ...]
    incomplete: tuple[str, ...]

    @property
    def total(self) -> float:
        """The sum of the rewards of the rollout as a whole."""
        return sum(reward.value for reward in self.rewards if reward.agent is None and reward.call_id is None)


@dataclass(frozen=True)
class Batch:
    """The rollouts of one optimiser step. `groups` are comparable; `members` are all, in the order of queueing."""

    groups: tuple[tuple[Member, ...], ...]
    members: tuple[Member, ...]
    replaced: int
    """Groups that had fewer than two complete members and were replaced."""
    silent: int = 0
    """Those of `groups` whose members cannot be told apart by their rewards: nothing is learnt from them."""
    replaced_silent: int = 0
    """Groups that were left out and replaced because they were silent (dynamic sampling)."""
    judge: JudgeCost = field(default_factory=JudgeCost)

    @property
    def incomplete_reasons(self) -> Counter[str]:
        return Counter(reason for member in self.members for reason in member.incomplete)

    @property
    def num_incomplete(self) -> int:
        return sum(bool(member.incomplete) for member in self.members)

    @property
    def num_failed(self) -> int:
        return sum(member.rollout.status == "failed" for member in self.members)

    @property
    def mean_reward(self) -> float:
        """Over the complete rollouts; failed ones are among them."""
        totals = [member.total for member in self.members if not member.incomplete]
        return sum(totals) / len(totals) if totals else 0.0

    @property
    def success(self) -> float:
        """The share of the complete rollouts with a reward of at least `SUCCESS`."""
        totals = [member.total for member in self.members if not member.incomplete]
        return sum(total >= SUCCESS for total in totals) / len(totals) if totals else 0.0

    @property
    def reward_error(self) -> float | None:
        """The standard error of the mean reward, over the means of groups: rollouts of one task are alike."""
        totals: defaultdict[str, list[float]] = defaultdict(list)
        for member in self.members:
            if not member.incomplete:
                totals[member.rollout.group_id].append(member.total)
        return standard_error([statistics.fmean(group) for group in totals.values()])

    @classmethod
    def joined(cls, batches: Sequence["Batch"]) -> "Batch":
        """One step's, of several that were collected apart."""
        return cls(
            tuple(group for batch in batches for group in batch.groups),
            tuple(member for batch in batches for member in batch.members),
            sum(batch.replaced for batch in batches),
            sum(batch.silent for batch in batches),
            sum(batch.replaced_silent for batch in batches),
            sum((batch.judge for batch in batches), JudgeCost()),
        )

    def staleness(self, version: int) -> float:
        """How many updates older than `version` the weights were that sampled a token of the groups, on average."""
        rows = [row for group in self.groups for member in group for row in member.transitions]
        ages = [version - known for row in rows for known in row.versions if known is not None]
        return statistics.fmean(ages) if ages else 0.0


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean of independent values; None for fewer than two."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


async def finish_all(
    store: Store, rollouts: Sequence[Rollout], runner_died: asyncio.Task[str] | None, on_finished: Callable[[int], None]
) -> list[Rollout]:
    """Queue the rollouts and wait until all have finished; `on_finished` hears how many more did.

    Raises:
        TrainingStopped: the runner died; the message has its last words.
    """
    await store.queue(rollouts)
    finished: dict[str, Rollout] = {}
    pending = [rollout.id for rollout in rollouts]
    while pending:
        wait = asyncio.ensure_future(store.wait(pending, timeout_s=WAIT_S))
        try:
            await asyncio.wait({wait, runner_died} if runner_died else {wait}, return_when=asyncio.FIRST_COMPLETED)
            if runner_died is not None and runner_died.done():
                raise TrainingStopped(runner_died.result())
            new = {rollout.id: rollout for rollout in await wait}
        finally:
            wait.cancel()
        finished |= new
        pending = [rollout_id for rollout_id in pending if rollout_id not in new]
        on_finished(len(new))
    return [finished[rollout.id] for rollout in rollouts]


def is_policy(endpoint: Endpoint) -> bool:
    """Whether a trainer has published it; a server that is shared may have others."""
    return endpoint.id.partition("-")[0] == POLICY


async def hold_policies(store: Store) -> None:
    """The policy server of the run before is gone, in order or not: requests wait for the new one."""
    for endpoint in await store.endpoints():
        if endpoint.state == "ready" and is_policy(endpoint):
            await store.publish(endpoint.model_copy(update={"state": "held"}))


async def take_over(store: Store, run: str) -> None:
    """Free a run that was killed from what is left of it, before its runner starts again.

    Its policy server is gone, as `hold_policies` says. Its runners are: what they held is released, for their leases
    would run on.
    """
    await hold_policies(store)
    page = await store.rollouts(run=run, status="running", limit=1000)
    for rollout in page.rollouts:
        assert rollout.runner is not None
        await store.release(rollout.runner, [(rollout.id, rollout.attempt)])


async def read_members(store: Store, rollouts: Sequence[Rollout], *, max_tokens: int | None) -> list[Member]:
    """What finished rollouts left, as members; a rollout whose calls cannot be made into rows is incomplete."""
    ids = [rollout.id for rollout in rollouts]
    calls: dict[str | None, list[Call]] = defaultdict(list)
    for call in await store.calls(ids):
        calls[call.rollout_id].append(call)
    rewards: dict[str, list[Reward]] = defaultdict(list)
    for reward in await store.rewards(ids):
        rewards[reward.rollout_id].append(reward)
    return [_member(r, tuple(calls[r.id]), tuple(rewards[r.id]), max_tokens) for r in rollouts]


def _member(rollout: Rollout, calls: tuple[Call, ...], rewards: tuple[Reward, ...], max_tokens: int | None) -> Member:
    if rollout.status == "incomplete":
        return Member(rollout, calls, rewards, (), rollout.incomplete)
    try:
        rows = transitions(rollout.id, calls, max_tokens=max_tokens)
    except IncompleteRollout as error:
        return Member(rollout, calls, rewards, (), (error.reason,))
    return Member(rollout, calls, rewards, tuple(rows), ())


@dataclass(frozen=True)
class Collecting:
    """How a batch is collected."""

    run: Callable[[list[Rollout]], Awaitable[list[Rollout]]]
    """Queues rollouts and gives them back finished."""
    reward: Callable[[Sequence[Member]], Awaitable[tuple[list[Member], JudgeCost]]]
    """Adds the trainer's own rewards to members of whole groups."""
    has_signal: Callable[[Sequence[Member]], bool]
    """Whether anything can be learnt from a group."""
    replace_silent: bool
    max_tokens: int | None
    max_incomplete: float | None
    """See `check_complete`; None does not check."""
    once: bool = False
    """Whether groups that are lost or silent are left to the caller to replace."""


@dataclass
class _Collected:
    members: list[Member]
    groups: list[tuple[Member, ...]]
    lost: int = 0
    silent: int = 0
    replaced_silent: int = 0
    judge: JudgeCost = field(default_factory=JudgeCost)

    def add(self, group: tuple[Member, ...], how: Collecting) -> None:
        silent = not how.has_signal(group)
        if silent and how.replace_silent:
            self.replaced_silent += 1
            return
        self.silent += silent
        self.groups.append(group)


async def collect_batch(store: Store, new_groups: Iterator[list[Rollout]], count: int, how: Collecting) -> Batch:
    """`count` comparable groups, as many lost ones replaced at most; fewer if too many were silent, or `how.once`.

    Raises:
        TrainingStopped: too many rollouts were incomplete, all of them failed, or the cap of lost groups was reached.
    """
    found = _Collected([], [])
    while len(found.groups) < count and found.lost <= count and found.replaced_silent < MAX_SILENT * count:
        wanted = [next(new_groups) for _ in range(count - len(found.groups))]
        finished = await how.run([rollout for group in wanted for rollout in group])
        new, cost = await how.reward(await read_members(store, finished, max_tokens=how.max_tokens))
        found.members += new
        found.judge += cost
        if how.max_incomplete is not None:
            check_complete(found.members, how.max_incomplete)
        comparable = _comparable(new)
        found.lost += len(wanted) - len(comparable)
        for group in comparable:
            found.add(group, how)
        if how.once:
            break
    if found.lost > count:
        raise TrainingStopped(f"{found.lost} groups had fewer than two complete rollouts, more than the cap of {count}")
    return Batch(
        tuple(found.groups), tuple(found.members), found.lost, found.silent, found.replaced_silent, found.judge
    )


def _comparable(members: Sequence[Member]) -> list[tuple[Member, ...]]:
    groups: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        groups[member.rollout.group_id].append(member)
    complete = ([m for m in group if not m.incomplete] for group in groups.values())
    # A group that was meant to have one member has advantage 0, and is no loss.
    return [
        tuple(some) for some, group in zip(complete, groups.values(), strict=True) if len(some) >= min(2, len(group))
    ]


def check_complete(members: Sequence[Member], max_incomplete: float) -> None:
    """Raise `TrainingStopped` where more than this share of a step's rollouts is incomplete, or all of them failed."""
    reasons = Counter(reason for member in members for reason in member.incomplete)
    incomplete = sum(bool(member.incomplete) for member in members)
    if incomplete > max_incomplete * len(members):
        common = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
        raise TrainingStopped(
            f"{incomplete} of {len(members)} rollouts are incomplete, over trainer.max_incomplete = {max_incomplete}: "
            f"{common}. See one with `leyden show {next(m.rollout.id for m in members if m.incomplete)}`"
        )
    if all(member.rollout.status == "failed" for member in members):
        failures = Counter(
            f"{m.rollout.failure.kind}: {m.rollout.failure.message}" for m in members if m.rollout.failure
        )
        common = "; ".join(f"{count} x {what}" for what, count in failures.most_common(3))
        raise TrainingStopped(
            f"all {len(members)} rollouts failed: {common}. See one with `leyden show {members[0].rollout.id}`"
        )
