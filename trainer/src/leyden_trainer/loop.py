"""The local training loop. Per step: run groups of rollouts, assign credit, make rows, update, publish, note.

Synchronous and on-policy: rollouts of step k come from the weights after k-1 updates, and the loop checks it.
Resuming restarts from the last whole record; ids are made from step and place, so that rollouts which had finished
before are found in the store and not run again.
"""

import asyncio
import dataclasses
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from leyden.errors import TrainingStopped
from leyden.store.protocol import Store
from leyden.types import Call, Rollout
from leyden_trainer.alternatives import alternatives
from leyden_trainer.assignment import Assignment, assigned, has_signal
from leyden_trainer.backend import BEFORE_WARM_START, Backend, StepStats
from leyden_trainer.config import TrainConfig
from leyden_trainer.credit import CreditMethod
from leyden_trainer.crediting import credits_of
from leyden_trainer.demonstrations import Demonstration
from leyden_trainer.experience import Batch, Collecting, collect_batch, finish_all, read_members, standard_error
from leyden_trainer.journal import Journal, noted_step
from leyden_trainer.rewarding import Rewarding
from leyden_trainer.screen import Screen
from leyden_trainer.summary import StepRecord, Summary
from leyden_trainer.tasks import evaluation_rollouts, train_groups
from leyden_trainer.transitions import merge_rate

__all__ = ["Loop", "RunState"]


@dataclass
class RunState:
    """What a resumed run must know beside weights, optimiser and random states."""

    step: int = 0
    """Updates made; also the version of the weights."""
    num_groups: int = 0
    """Groups taken from the order of tasks, the replaced ones too."""
    num_rollouts: int = 0
    seconds: float = 0.0
    """Spent on rollouts and updates."""
    best_step: int = 0
    rewards: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    """(step, mean training reward)"""
    heldout: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    """(step, mean held-out reward)"""
    base: float | None = None
    """Mean held-out reward before the warm start; None without one."""
    seconds_warm_start: float = 0.0
    credit: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the credit method carries from step to step."""


@dataclass(frozen=True)
class Loop:
    """One run, its parts given. `state` is changed as the run goes on."""

    config: TrainConfig
    folder: Path
    store: Store
    backend: Backend
    method: CreditMethod
    rewarding: Rewarding
    train_tasks: Sequence[JsonValue]
    heldout_tasks: Sequence[JsonValue]
    demonstrations: Sequence[Demonstration]
    """Of the warm start; none without one."""
    state: RunState
    journal: Journal
    screen: Screen
    runner_died: asyncio.Task[str] | None

    @property
    def run_name(self) -> str:
        return self.folder.name

    async def run(self) -> Summary:
        """Train to the end, or to `trainer.stop_at`.

        Raises:
            TrainingStopped: with the reason; what had been saved stays, and `--resume` goes on from it.
        """
        started = time.perf_counter()
        saving: asyncio.Task[None] | None = None
        try:
            if not self.state.heldout and self.demonstrations:
                await self._warm_start()
            await self._publish()
            if not self.state.heldout:
                await self._evaluate()
            while self.state.step < self.config.trainer.steps and not self._reached():
                await self._step(saving)
                if self.state.step % self.config.trainer.evaluate_every == 0:
                    await self._evaluate()
                # The weights rest while the next rollouts are sampled: that is the time to write them.
                saving = asyncio.create_task(self.backend.save_state(dataclasses.asdict(self.state)))
            if self.state.heldout[-1][0] != self.state.step:
                await self._evaluate()
        finally:
            if saving is not None:
                await saving
        return self._summary(time.perf_counter() - started)

    async def _warm_start(self) -> None:
        """Evaluate the model as it came, then teach it. Of a run that was resumed between, what is there is found."""
        await self.store.publish(self.backend.endpoint(BEFORE_WARM_START))
        scores, _ = await self._heldout_scores(BEFORE_WARM_START, "base")
        self.state.base = statistics.fmean(scores)
        await self._note(0, {"heldout_base": self.state.base})
        self.screen.base(self.state.base)
        started = time.perf_counter()
        self.screen.begin("warm start", 0)
        losses = await self.backend.warm_start(self.demonstrations, self.config)
        self.screen.end()
        self.state.seconds_warm_start = time.perf_counter() - started
        self.screen.warm_start(losses, self.state.seconds_warm_start)

    async def _step(self, saving: asyncio.Task[None] | None) -> None:
        state, step, started = self.state, self.state.step + 1, time.perf_counter()
        batch = await self._rollouts(step)
        if saving is not None:
            await saving
        sampled = time.perf_counter()
        self.screen.begin(f"step {step}: update", 0)
        assignment = await assigned(batch.groups, self.config, self.method, state.credit, self.backend)
        stats = await self.backend.update(assignment.rows)
        self.screen.end()
        state.step, state.credit = step, dict(assignment.memory)
        await self._publish()
        await self.store.credit(
            credits_of(batch, assignment.advantages, run=self.run_name, step=step, method=self.config.credit.method)
        )
        ended = time.perf_counter()
        state.seconds += ended - started
        state.num_groups += len(batch.groups) + batch.replaced + batch.replaced_silent
        state.num_rollouts += len(batch.members)
        state.rewards.append((step, batch.mean_reward))
        record = _record(step, batch, assignment, stats, (started, sampled, ended))
        await self._note(step, record.metrics)
        left = state.seconds / step * (self.config.trainer.steps - step)
        self.screen.step(record, batch, left)

    async def _rollouts(self, step: int) -> Batch:
        groups = train_groups(self.config, self.run_name, step, self.train_tasks, self.state.num_groups)
        how = Collecting(
            run=lambda rollouts: self._sampled(step, rollouts),
            reward=self.rewarding,
            has_signal=lambda group: has_signal(group, self.method, self.state.credit),
            replace_silent=self.config.trainer.dynamic_sampling,
            max_tokens=self.config.model.context_length,
            max_incomplete=self.config.trainer.max_incomplete,
        )
        batch = await collect_batch(self.store, groups, self.config.trainer.tasks_per_step, how)
        for group in batch.groups:
            for member in group:
                self._check_version(member.rollout, {v for t in member.transitions for v in t.versions}, step - 1)
        return batch

    async def _sampled(self, step: int, rollouts: list[Rollout]) -> list[Rollout]:
        """The rollouts, and those that replay a part of them."""
        finished = await self._finish(f"step {step}: rollouts", rollouts)
        replays = self.config.credit.replays
        if not replays:
            return finished
        calls: dict[str, list[Call]] = defaultdict(list)
        for call in await self.store.calls([rollout.id for rollout in finished]):
            calls[call.rollout_id or ""].append(call)
        more = alternatives(finished, calls, self.method, replays=replays, seed=self.config.seed)
        return finished + await self._finish(f"step {step}: alternatives", more) if more else finished

    async def _finish(self, what: str, rollouts: list[Rollout]) -> list[Rollout]:
        self.screen.begin(what, len(rollouts))
        try:
            return await finish_all(self.store, rollouts, self.runner_died, self.screen.advance)
        finally:
            self.screen.end()

    def _check_version(self, rollout: Rollout, versions: set[int | None], expected: int) -> None:
        others = sorted(version for version in versions if version not in (None, expected))
        if others:
            raise TrainingStopped(
                f"rollout {rollout.id} was sampled by versions {others}, expected only {expected}: "
                "another trainer publishes to this store; give each run its own"
            )

    async def _heldout_scores(self, version: int, name: str) -> tuple[list[float], int]:
        """The held-out rewards of the weights that are served now, and how many rollouts were incomplete."""
        rollouts = evaluation_rollouts(self.config, self.heldout_tasks, run=self.run_name, name=name, step=version)
        finished = await self._finish("held-out tasks", rollouts)
        members = await read_members(self.store, finished, max_tokens=None)
        for member in members:
            self._check_version(member.rollout, {v for t in member.transitions for v in t.versions}, version)
        # Incomplete rollouts stay in the denominator: leaving them out would flatter the policy.
        scores = [0.0 if member.incomplete else member.total for member in members]
        return scores, sum(bool(member.incomplete) for member in members)

    async def _evaluate(self) -> None:
        step = self.state.step
        scores, incomplete = await self._heldout_scores(step, f"h{step}")
        score, error = statistics.fmean(scores), standard_error(scores)
        best = max((value for _, value in self.state.heldout), default=float("-inf"))
        self.state.heldout.append((step, score))
        await self._note(step, {"heldout": score} | ({} if error is None else {"heldout_error": error}))
        self.screen.heldout(step, score, incomplete)
        if score > best:
            self.state.best_step = step
            await self.backend.save_checkpoint("best")

    async def _note(self, step: int, metrics: Mapping[str, float]) -> None:
        self.journal.write(step, metrics)
        await self.store.note([noted_step(self.run_name, step, metrics)])

    def _reached(self) -> bool:
        wanted = self.config.trainer.stop_at
        return wanted is not None and self.state.heldout[-1][1] >= wanted

    async def _publish(self) -> None:
        await self.store.publish(self.backend.endpoint(self.state.step))

    def _summary(self, seconds_total: float) -> Summary:
        state = self.state
        return Summary(
            eval_base=state.base,
            eval_before=state.heldout[0][1],
            eval_after=state.heldout[-1][1],
            eval_best=dict(state.heldout)[state.best_step],
            best_step=state.best_step,
            steps=state.step,
            rollouts=state.num_rollouts,
            seconds=state.seconds,
            seconds_total=seconds_total,
            seconds_warm_start=state.seconds_warm_start,
            model=self.config.model.path,
            seed=self.config.seed,
            run=self.run_name,
        )


def _record(
    step: int, batch: Batch, assignment: Assignment, stats: StepStats, times: tuple[float, float, float]
) -> StepRecord:
    """`times`: when the step began, when its rollouts were there, when it ended."""
    started, sampled, ended = times
    importance = assignment.importance
    return StepRecord(
        step=step,
        reward=batch.mean_reward,
        success=batch.success,
        reward_error=batch.reward_error,
        staleness=batch.staleness(step - 1),
        entropy=stats.entropy,
        kl=stats.kl,
        reference_kl=stats.reference_kl,
        clip_fraction=stats.clip_fraction,
        mismatch=stats.mismatch if assignment.mismatch is None else assignment.mismatch,
        importance_mean=importance and importance.mean,
        importance_capped=importance and importance.capped,
        grad_norm=stats.grad_norm,
        loss=stats.loss,
        value_loss=stats.value_loss,
        explained_variance=assignment.explained_variance,
        tokens=stats.trained_tokens,
        rollouts=len(batch.members),
        failed=batch.num_failed,
        incomplete=batch.num_incomplete,
        silent_groups=batch.silent,
        replaced_groups=batch.replaced,
        replaced_silent_groups=batch.replaced_silent,
        judge_tokens=batch.judge.prompt_tokens + batch.judge.completion_tokens,
        merge_rate=merge_rate([member.calls for group in batch.groups for member in group]),
        seconds=ended - started,
        seconds_rollouts=sampled - started,
        seconds_update=ended - sampled,
    )
