"""Random sequences of verbs against a model of a few lines, on SQLite, on PostgreSQL and over HTTP.

Every answer and every refusal must be the model's, and in the end every rollout can be brought to its end.
"""

import asyncio
import itertools
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, precondition, rule, run_state_machine_as_test

from leyden.client import HttpStore
from leyden.errors import Conflict, LeaseLost, LeydenError
from leyden.server.serve import BackgroundServer
from leyden.store import SqlStore
from leyden.store.protocol import Store
from leyden.testing.records import ended, rewarded, sampled, told
from leyden.types import Rollout, RolloutStatus

T = TypeVar("T")
FEW_ROLLOUTS = 4  # so that much happens to each
LONG_S, NOTHING_S = 1e6, 1e-6  # of leases; one of nothing has ended when the store is asked again
RUNNERS = st.sampled_from(["ann", "bob"])
OFFSETS = st.sampled_from([0, 0, 0, 0, -1])  # to the current attempt: mostly it is meant, sometimes the one before
MINE = st.sampled_from([True, True, True, True, False])  # whether it is the runner of the rollout who speaks
_examples = itertools.count()


@dataclass
class Model:
    """A rollout as it should be. `calls` and `rewards` are by (attempt, number)."""

    train: bool
    max_attempts: int
    status: RolloutStatus = "queued"
    attempt: int = 0
    released: int = 0
    runner: str | None = None
    calls: dict[tuple[int, int], set[str]] = field(default_factory=dict)
    rewards: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return self.status not in ("queued", "running")

    def holds(self, runner: str, attempt: int) -> bool:
        return (self.runner, self.attempt) == (runner, attempt)

    def lose(self) -> None:
        self.status = "queued" if self.attempt - self.released < self.max_attempts else "incomplete"

    def finish(self, status: RolloutStatus) -> None:
        calls = [sides for (attempt, _), sides in self.calls.items() if attempt == self.attempt]
        complete = all("gateway" in sides for sides in calls) and any(a == self.attempt for a, _ in self.rewards)
        self.status = status if complete or not self.train else "incomplete"


class Verbs(RuleBasedStateMachine):
    rollouts = Bundle("rollouts")

    def __init__(self, runner: asyncio.Runner, store: Store) -> None:
        super().__init__()
        self._runner, self.store = runner, store
        self._example, self._names = next(_examples), itertools.count()
        self.models: dict[str, Model] = {}  # in the order of queueing

    def do(self, verb: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(verb)

    def refused(self, verb: Coroutine[Any, Any, Any], kind: type[LeydenError] | None) -> None:
        """The verb is refused with this kind of error; None: it is not."""
        if kind is None:
            self.do(verb)
        else:
            with pytest.raises(kind):
                self.do(verb)

    @precondition(lambda self: len(self.models) < FEW_ROLLOUTS)
    @rule(target=rollouts, train=st.lists(st.booleans(), min_size=1, max_size=2), max_attempts=st.integers(1, 2))
    def queue(self, train: list[bool], max_attempts: int) -> Any:
        names = [f"{self._example}-{next(self._names)}" for _ in train]
        self.models |= {name: Model(one, max_attempts) for name, one in zip(names, train, strict=True)}
        for _ in range(2):  # the second time nothing happens
            self.do(self.store.queue([self.given(name) for name in names]))
        return multiple(*names)

    def given(self, name: str) -> Rollout:
        model = self.models[name]
        mode = "train" if model.train else "trace"
        return Rollout(id=name, group_id="g", mode=mode, max_attempts=model.max_attempts)

    def speaker(self, name: str, mine: bool) -> str:
        """The rollout's runner, or another one."""
        runner = self.models[name].runner or "ann"
        return runner if mine else {"ann": "bob", "bob": "ann"}[runner]

    @rule(runner=RUNNERS, limit=st.integers(2, 4))
    def claim(self, runner: str, limit: int) -> None:
        expected = [name for name, model in self.models.items() if model.status == "queued"][:limit]
        claims = self.do(self.store.claim(runner, limit=limit, lease_s=LONG_S))
        for name in expected:
            model = self.models[name]
            model.status, model.attempt, model.runner = "running", model.attempt + 1, runner
        assert [(c.rollout.id, c.rollout.attempt) for c in claims] == [(n, self.models[n].attempt) for n in expected]

    @rule(mine=MINE, names=st.lists(rollouts, min_size=1, max_size=3, unique=True), offset=OFFSETS)
    def heartbeat(self, mine: bool, names: list[str], offset: int) -> None:
        runner = self.speaker(names[0], mine)
        held = [(name, max(0, self.models[name].attempt + offset)) for name in names]
        expected = [n for n, a in held if self.models[n].holds(runner, a) and self.models[n].status == "running"]
        assert self.do(self.store.heartbeat(runner, held, lease_s=LONG_S)) == expected

    @rule(name=rollouts)
    def lease_ends(self, name: str) -> None:
        model = self.models[name]
        if model.status != "running" or model.runner is None:
            return
        while self.do(self.store.heartbeat(model.runner, [(name, model.attempt)], lease_s=NOTHING_S)):
            pass
        model.lose()
        self.look(name)

    @rule(name=rollouts, mine=MINE, offset=OFFSETS)
    def release(self, name: str, mine: bool, offset: int) -> None:
        model, runner = self.models[name], self.speaker(name, mine)
        self.do(self.store.release(runner, [(name, model.attempt + offset)]))
        if model.status == "running" and model.holds(runner, model.attempt + offset):
            model.status, model.runner, model.released = "queued", None, model.released + 1
        self.look(name)

    @rule(name=rollouts, offset=OFFSETS, number=st.integers(0, 1), side=st.sampled_from(["adapter", "gateway"]))
    def record(self, name: str, offset: int, number: int, side: str) -> None:
        model = self.models[name]
        attempt = max(1, model.attempt + offset)
        made = (sampled if side == "gateway" else told)(name, f"{name} {attempt} {number}")
        sides = model.calls.get((attempt, number), set())
        late = model.over and attempt == model.attempt and side not in sides and (side == "gateway" or not sides)
        self.refused(self.store.record([made.model_copy(update={"attempt": attempt})]), Conflict if late else None)
        if not late:
            model.calls[attempt, number] = sides | {side}
        self.look(name)

    @rule(name=rollouts, offset=OFFSETS, number=st.integers(0, 1), value=st.sampled_from([0.0, 1.0]))
    def reward(self, name: str, offset: int, number: int, value: float) -> None:
        model = self.models[name]
        attempt = max(1, model.attempt + offset)
        kept = model.rewards.setdefault((attempt, number), value)
        given = rewarded(name, value, attempt=attempt, id=f"{name} {attempt} {number}")
        self.refused(self.store.reward([given]), None if kept == value else Conflict)
        self.look(name)

    @rule(name=rollouts, mine=MINE, offset=OFFSETS, status=st.sampled_from(["succeeded", "failed", "lost"]))
    def finish(self, name: str, mine: bool, offset: int, status: Any) -> None:
        model, runner = self.models[name], self.speaker(name, mine)
        attempt = max(0, model.attempt + offset)
        stale = not model.holds(runner, attempt) or (model.status == "queued" and status != "lost")
        outcome = ended(name, attempt=attempt, runner=runner, status=status)
        self.refused(self.store.finish(outcome), LeaseLost if stale else None)
        if not stale and model.status == "running":
            model.lose() if status == "lost" else model.finish(status)
        self.look(name)

    def look(self, name: str) -> None:
        model = self.models[name]
        rollout = self.do(self.store.rollout(name))
        found = (rollout.status, rollout.attempt, rollout.released, rollout.runner)
        assert found == (model.status, model.attempt, model.released, model.runner)
        current = {f"{name} {a} {n}": sides for (a, n), sides in model.calls.items() if a == model.attempt}
        assert {call.id: set(call.captured_by) for call in self.do(self.store.calls([name]))} == current
        rewards = {f"{name} {a} {n}": value for (a, n), value in model.rewards.items() if a == model.attempt}
        assert {reward.id: reward.value for reward in self.do(self.store.rewards([name]))} == rewards

    def teardown(self) -> None:
        """Whatever happened, every rollout comes to its end."""
        for name, model in self.models.items():
            if model.status == "running":
                self.finish(name, True, 0, "succeeded")
        while any(model.status == "queued" for model in self.models.values()):
            self.claim("ann", 3)
            for name, model in self.models.items():
                if model.status == "running":
                    self.finish(name, True, 0, "succeeded")
        ids = set(self.models)
        assert {rollout.id for rollout in self.do(self.store.wait(sorted(ids), timeout_s=0))} == ids


def check(store: Store, runner: asyncio.Runner, examples: int) -> None:
    bounds = settings(max_examples=examples, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
    run_state_machine_as_test(lambda: Verbs(runner, store), settings=bounds)
    runner.run(store.close())


def test_sql_stores_do_as_the_model_says(place: str) -> None:
    with asyncio.Runner() as runner:
        check(SqlStore.open(place), runner, 20)


def test_a_store_over_http_does_as_the_model_says(tmp_path: Path) -> None:
    with BackgroundServer(tmp_path / "store.sqlite") as server, asyncio.Runner() as runner:
        check(HttpStore(server.url, server.key), runner, 6)
