"""verl's agent-loop manager, by Leyden: queues a step's groups, waits for runners, hands rows to TransferQueue.

Unlike verl's own it runs no agent. What may be trained on, and what happens to groups that lost rollouts, is decided
by `leyden_trainer.experience`, as for the local backend; verl's prompts only say how many groups a step has.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import transfer_queue as tq
from pydantic import JsonValue
from tensordict import TensorDict
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from leyden.client import HttpStore
from leyden.errors import LeydenError, TrainingStopped
from leyden.types import Credit, Endpoint, Rollout, Run
from leyden_trainer.assignment import has_signal
from leyden_trainer.config import TrainConfig
from leyden_trainer.credit import CreditMethod
from leyden_trainer.experience import (
    MAX_SILENT,
    POLICY,
    Batch,
    Collecting,
    Member,
    check_complete,
    collect_batch,
    finish_all,
    is_policy,
    read_members,
)
from leyden_trainer.journal import noted_step
from leyden_trainer.judge import Judge
from leyden_trainer.rewarding import Rewarding
from leyden_trainer.rules import load_rules
from leyden_trainer.tasks import evaluation_rollouts, train_groups
from leyden_trainer.transitions import Transition
from leyden_trainer.verl.fields import fields_of, tags_of
from leyden_trainer.verl.remembered import Remembered

__all__ = ["Experience", "RolloutManager"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Experience:
    """The training rollouts of one step, and which row of verl's is which transition."""

    batch: Batch
    rows: dict[str, Transition] = field(default_factory=dict[str, Transition])
    """By verl's key, UID_SESSION_INDEX."""


class RolloutManager:
    """Lives in verl's task runner. Its own thread talks to the store, so that verl's loop may block."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        run: str,
        store: tuple[str, str],
        method: CreditMethod,
        judge_key: str | None,
        tasks: tuple[Sequence[JsonValue], Sequence[JsonValue]],
        remembered: Remembered,
    ) -> None:
        """`store` is the server's URL and the operator's key; `tasks` those to train on, and those held out."""
        self.experience: Experience | None = None
        """Of the step that is trained on."""
        self.heldout: tuple[int, float] | None = None
        """Step and score of the last evaluation."""
        self._found: dict[str, Experience] = {}
        """What verl has not trained on yet, by its uid of the prompt."""
        self._lost: list[Experience] = []
        """Groups that verl replaced; they are counted with the next step."""
        self._num_groups, self._drawing, self._counting = remembered.num_groups, 0, False
        self._begun = remembered.begun
        self._order: Iterator[list[Rollout]] = iter(())
        self._asynchronous = config.trainer.mode != "sync"
        self._config, self._run, self._method = config, run, method
        self._train_tasks, self._heldout_tasks = tasks
        self._error: LeydenError | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="leyden-rollouts", daemon=True).start()
        self._store = self._wait(self._connect(*store))
        rules, asked = load_rules(config.reward.rules), config.reward.judge
        judge = Judge(asked, cache=config.output / "judge-cache", key=judge_key) if asked else None
        self._rewarding = Rewarding(self._store, rules, judge)

    async def _connect(self, url: str, key: str) -> HttpStore:
        return HttpStore(url, key)

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def generate_sequences(self, prompts: TensorDict) -> None:
        """verl's contract: begin the rollouts of these prompts, do not wait; rows go into TransferQueue."""
        uids, step = [str(uid) for uid in prompts["uid"]], int(prompts["global_steps"])
        validate = "validate" in prompts and bool(prompts["validate"])
        partition = "val" if validate else "train"
        self.check()  # asked for others in the place of those that failed, it would fail again, and so on
        if self._asynchronous and not validate:
            works = [(self._train_one(uid, step), [uid]) for uid in uids]
        else:
            works = [(self._evaluate(uids, step) if validate else self._train(uids, step), uids)]
        for work, of in works:
            asyncio.run_coroutine_threadsafe(self._guarded(work, of, partition), self._loop)

    def check(self) -> None:
        """Raise what went wrong in the thread; verl waits on tags alone and would see only missing rows."""
        if self._error is not None:
            raise self._error

    def publish(self, addresses: Sequence[str], *, model: str, version: int, held: bool) -> None:
        """Tell the gateway where the policy is served, which weights it has, and whether they are being changed."""
        for number, address in enumerate(addresses):
            endpoint = Endpoint(
                id=f"{POLICY}-{number}",
                url=f"http://{address}/v1",
                model=model,
                version=version,
                context_length=self._config.model.context_length,
                state="held" if held else "ready",
            )
            self._wait(self._store.publish(endpoint))

    def withdraw(self, *, from_number: int = 0) -> None:
        """Tell the gateway that the policy's servers, from this one on, are no more."""
        ours = {f"{POLICY}-{number}" for number in range(from_number)}
        for endpoint in self._wait(self._store.endpoints()):
            if is_policy(endpoint) and endpoint.id not in ours and endpoint.state != "gone":
                self._wait(self._store.publish(endpoint.model_copy(update={"state": "gone"})))

    def credit(self, credits: Sequence[Credit]) -> None:
        """Write down what each call was trained with."""
        self._wait(self._store.credit(credits))

    def begin(self, model: Path, *, after_step: int) -> None:
        """Write down what is trained, and that it goes on after this step."""
        tokenizer = model / "tokenizer.json"
        config = self._config.model_dump(mode="json")
        run = Run(name=self._run, config=config, tokenizer=str(tokenizer) if tokenizer.is_file() else None)
        self._wait(self._store.begin(run, after_step=after_step))

    def note(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write down what the step measured, for who watches."""
        self._wait(self._store.note([noted_step(self._run, step, metrics)]))

    async def _guarded(self, work: Coroutine[Any, Any, bool], uids: Sequence[str], partition: str) -> None:
        """However it ends, every prompt gets a last status: verl's trainer waits for no less."""
        await self._tag(uids, partition, "running")
        status = "failure"
        try:
            status = "finished" if await work else "failure"
        except LeydenError as error:
            self._error = error
        except BaseException as error:
            self._error = TrainingStopped(f"the rollouts of a step could not be collected: {error!r}")
            raise
        finally:
            await self._tag(uids, partition, status)

    async def _tag(self, uids: Sequence[str], partition: str, status: str) -> None:
        for uid in uids:
            await tq.async_kv_put(key=uid, partition_id=partition, tag={"status": status})

    async def _train(self, uids: Sequence[str], step: int) -> bool:
        how = self._how(self._config.trainer.max_incomplete)
        batch = await collect_batch(self._store, self._draw(step), len(uids), how)
        found = Experience(batch)
        for uid, group in zip(uids, batch.groups, strict=False):  # fewer groups if too many were silent
            found.rows.update(_keyed(uid, group))
        self._found = dict.fromkeys(uids, found)
        await self._put([member for group in batch.groups for member in group], found.rows, step, "train")
        return True

    async def _train_one(self, uid: str, step: int) -> bool:
        """A group by itself: verl takes the oldest that are there. For one that may not be trained on it asks again.

        Between two steps as many groups are replaced as in a synchronous step, and hardly more: of what is under way
        when that is reached, silent groups are still left out.
        """
        most = self._config.trainer.tasks_per_step
        how = replace(self._how(None), once=True)
        if sum(found.batch.replaced_silent for found in self._lost) >= MAX_SILENT * most:
            how = replace(how, replace_silent=False)
        batch = await collect_batch(self._store, self._draw(step), 1, how)
        found = Experience(batch)
        for group in batch.groups:
            found.rows.update(_keyed(uid, group))
        if found.rows:
            self._found[uid] = found
            await self._put(batch.groups[0], found.rows, step, "train")
            return True
        self._lost.append(found)
        lost = sum(found.batch.replaced for found in self._lost)
        if lost > most:
            raise TrainingStopped(
                f"{lost} groups since the last step had fewer than two complete rollouts, more than the cap of {most}; "
                f"see one with `leyden show {batch.members[0].rollout.id}`"
            )
        return False

    def _how(self, max_incomplete: float | None) -> Collecting:
        return Collecting(
            run=self._finish,
            reward=self._rewarding,
            has_signal=lambda group: has_signal(group, self._method, {}),
            replace_silent=self._config.trainer.dynamic_sampling,
            max_tokens=self._config.model.context_length,
            max_incomplete=max_incomplete,
        )

    def _draw(self, step: int) -> Iterator[list[Rollout]]:
        """Groups for a step, in the run's order of tasks."""
        if step != self._drawing:
            # An asynchronous run has other weights after the steps that it makes again, so its rollouts are new.
            begun = self._begun if self._asynchronous else 1
            self._order = train_groups(self._config, self._run, step, self._train_tasks, self._num_groups, begun=begun)
            self._drawing, self._counting = step, True
        order = self._order
        while True:
            group = next(order)
            # What is drawn in the place of lost groups once the step is counted, a resumed run draws again.
            self._num_groups += self._counting and order is self._order
            yield group

    def count_groups(self) -> int:
        """Groups taken from the order of tasks until this step, the replaced ones too: where the next step goes on."""
        self._counting = False
        return self._num_groups

    def take(self, keys: Sequence[str], *, step: int) -> Experience:
        """The experience behind rows of verl's that are trained on now.

        Raises:
            TrainingStopped: too many rollouts were incomplete, or a token is of weights that it may not be of.
        """
        uids = dict.fromkeys(key.split("_")[0] for key in keys)
        taken = [found for uid in uids if (found := self._found.pop(uid, None))]
        parts = list({id(found): found for found in (*taken, *self._lost)}.values())
        self._lost.clear()
        joined = Batch.joined([part.batch for part in parts])
        experience = Experience(joined, {key: row for part in parts for key, row in part.rows.items()})
        if self._asynchronous:
            check_complete(joined.members, self._config.trainer.max_incomplete)
        stale = self._config.trainer.max_staleness if self._asynchronous else 0
        _check_versions(experience.rows.values(), step - 1, stale)
        self.experience = experience
        return experience

    async def _evaluate(self, uids: Sequence[str], step: int) -> bool:
        rollouts = evaluation_rollouts(self._config, self._heldout_tasks, run=self._run, name=f"h{step}", step=step)
        members = await read_members(self._store, await self._finish(rollouts), max_tokens=None)
        # Incomplete rollouts stay in the denominator: leaving them out would flatter the policy.
        self.heldout = (step, sum(member.total for member in members if not member.incomplete) / len(members))
        rows: dict[str, Transition] = {}
        for uid, member in zip(uids, members, strict=True):
            rows |= _keyed(uid, [member])
        await self._put(members, rows, step, "val")
        return True

    async def _finish(self, rollouts: list[Rollout]) -> list[Rollout]:
        return await finish_all(self._store, rollouts, None, lambda count: None)

    async def _put(self, members: Sequence[Member], rows: dict[str, Transition], step: int, partition: str) -> None:
        if not members:
            raise TrainingStopped(
                f"in every group of step {step}, and of those in their place, all rollouts had the same reward, so "
                "there is nothing to learn; raise sampling.temperature, choose other tasks, or end the run here"
            )
        if not rows:
            raise TrainingStopped(
                f"no rollout of step {step} has a sampled token; see one with `leyden show {members[0].rollout.id}`"
            )
        rewards = {member.rollout.id: member.total for member in members}
        agents = {
            call.id: "/".join(call.structure.agent) if call.structure else "" for m in members for call in m.calls
        }
        fields = [
            fields_of(
                row,
                uid=key.split("_")[0],
                reward=rewards[row.rollout_id],
                trained=_trained(row, {call for call, agent in agents.items() if self._method.trains(agent)}),
            )
            for key, row in rows.items()
        ]
        await tq.async_kv_batch_put(
            keys=list(rows),
            fields=list_of_dict_to_tensordict(fields),
            tags=[tags_of(row, step) for row in rows.values()],
            partition_id=partition,
        )


def _check_versions(rows: Iterable[Transition], expected: int, stale: int) -> None:
    """A run that was killed may find rollouts by weights that it has yet to make again: they count as stale too."""
    for row in rows:
        known = {version for version in row.versions if version is not None}
        others = sorted(version for version in known if abs(version - expected) > stale)
        if others:
            raise TrainingStopped(
                f"rollout {row.rollout_id} was sampled by versions {others}, expected {expected}, or {stale} away: "
                "another trainer publishes to this store; give each run its own"
            )


def _keyed(uid: str, group: Sequence[Member]) -> dict[str, Transition]:
    return {
        f"{uid}_{session}_{index}": row
        for session, member in enumerate(group)
        for index, row in enumerate(member.transitions)
    }


def _trained(row: Transition, calls: set[str]) -> list[bool]:
    trained = [False] * len(row.token_ids)
    for span in row.spans:
        if span.call_id in calls:
            trained[span.start : span.stop] = [True] * (span.stop - span.start)
    return trained
