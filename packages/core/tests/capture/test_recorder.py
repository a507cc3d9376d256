"""The background sender, with a real server behind it, and a front that refuses or holds its records."""

import asyncio
import os
import random
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from leyden.recorder import Recorder, recorder
from leyden.scope import Scope
from leyden.testing.capture_trial import CaptureTrial
from leyden.testing.fake_server import Reply
from leyden.testing.faulty_front import FaultyFront
from leyden.types import Call, Reward, new_id

PATIENCE_S = 60.0
CAPACITY = 10_000


@pytest.fixture
async def trial(tmp_path: Path) -> AsyncIterator[CaptureTrial]:
    async with CaptureTrial(tmp_path, lambda body, headers: Reply("not asked")) as trial:
        yield trial


def call_of(scope: Scope) -> Call:
    return Call(rollout_id=scope.rollout_id, captured_by=("adapter",))


async def test_a_flush_sends_what_many_threads_recorded_before_it(trial: CaptureTrial) -> None:
    recorder, scope = Recorder(), await trial.claimed("a")
    for _ in range(3):
        calls = [call_of(scope) for _ in range(500)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda call: recorder.record(scope, call), calls))
        recorder.flush(scope, PATIENCE_S)
        recorded = {call.id for call in await trial.store.calls(["a"])}
        assert {call.id for call in calls} <= recorded
    assert scope.losses == []
    assert len(recorded) == 1500


async def test_flushes_of_many_scopes_at_once_each_wait_for_their_own(trial: CaptureTrial) -> None:
    recorder = Recorder()
    scopes = [await trial.claimed(str(number)) for number in range(16)]

    def work(scope: Scope) -> None:
        for _ in range(20):
            recorder.record(scope, call_of(scope))
        recorder.flush(scope, PATIENCE_S)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, scopes))
    for scope in scopes:
        assert len(await trial.store.calls([scope.rollout_id])) == 20
        assert scope.losses == []


async def test_calls_and_rewards_that_were_recorded_together_both_arrive(trial: CaptureTrial) -> None:
    recorder, scope = Recorder(), await trial.claimed("a")
    recorder.record(scope, call_of(scope))
    recorder.record(scope, Reward(rollout_id="a", value=True, source="agent"))
    recorder.flush(scope, PATIENCE_S)
    assert len(await trial.store.calls(["a"])) == 1
    assert [reward.value for reward in await trial.store.rewards(["a"])] == [1.0]


async def test_what_a_failing_server_did_not_take_is_a_loss_of_its_scope(trial: CaptureTrial) -> None:
    recorder, whole = Recorder(), await trial.claimed("a")
    with FaultyFront(trial.server.url).serve() as front:
        failing = replace(await trial.claimed("b"), server_url=front)
        for scope in (failing, whole, failing):
            recorder.record(scope, call_of(scope))
        recorder.flush(failing, PATIENCE_S)
    assert ["500" in loss and "were not recorded" in loss for loss in failing.losses] == [True] * len(failing.losses)
    assert sum(int(loss.split()[0]) for loss in failing.losses) == 2
    assert whole.losses == []
    assert len(await trial.store.calls(["a"])) == 1


async def test_a_full_queue_is_a_loss_that_names_the_record(trial: CaptureTrial) -> None:
    front = FaultyFront(trial.server.url, held=True)
    with front.serve() as url:
        recorder, scope = Recorder(), replace(await trial.claimed("a"), server_url=url)
        recorder.record(scope, call_of(scope))
        front.wait_record()  # the thread is busy with it, and takes no other
        for _ in range(CAPACITY):
            recorder.record(scope, call_of(scope))
        assert scope.losses == []
        last = call_of(scope)
        recorder.record(scope, last)
        assert scope.losses == [f"the capture queue of {CAPACITY} records is full; {last.id} was not recorded"]
        recorder.flush(scope, 0.0)
        assert scope.losses[1:] == ["the server took longer than 0 s to record what was captured"]


async def test_what_makes_a_record_runs_on_the_recorders_thread_and_its_failure_is_a_loss(trial: CaptureTrial) -> None:
    scope = await trial.claimed("a")
    ran_on: list[str] = []

    def make() -> Call:
        ran_on.append(threading.current_thread().name)
        return call_of(scope)

    def fail() -> Call:
        raise LookupError("no such field")

    recorder.record(scope, make)
    recorder.record(scope, fail)
    recorder.record(scope, make)
    recorder.flush(scope, PATIENCE_S)
    assert ran_on == ["leyden-recorder"] * 2
    assert scope.losses == ["a record could not be made: LookupError: no such field"]
    assert len(await trial.store.calls(["a"])) == 2


async def test_a_server_that_takes_too_long_is_a_loss(trial: CaptureTrial) -> None:
    front = FaultyFront(trial.server.url, held=True)
    with front.serve() as url:
        recorder, scope = Recorder(), replace(await trial.claimed("a"), server_url=url)
        recorder.record(scope, call_of(scope))
        front.wait_record()
        recorder.flush(scope, 0.0)
        assert scope.losses == ["the server took longer than 0 s to record what was captured"]


def test_ids_do_not_repeat_where_an_agent_seeds_the_shared_generator() -> None:
    ids: list[str] = []
    for _ in range(2):
        random.seed(0)
        ids += [new_id() for _ in range(100)]
    assert len(set(ids)) == 200
    assert {len(one) for one in ids} == {32}


def test_threads_never_get_the_same_id() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_id(), range(4000)))
    assert len(set(ids)) == 4000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12: other tests have left threads
def test_a_forked_process_has_other_ids_than_its_parent_and_its_sister() -> None:
    told: list[str] = []
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, new_id().encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told.append(pipe.read())
        os.waitpid(child, 0)
    assert len({new_id(), *told}) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12: other tests have left threads
async def test_what_a_forked_process_records_arrives_too(trial: CaptureTrial) -> None:
    scope = await trial.claimed("a")
    recorder.record(scope, mine := call_of(scope))
    recorder.flush(scope, PATIENCE_S)  # the thread runs here, and does not in a child
    its = call_of(scope)
    child = os.fork()
    if child == 0:
        recorder.record(scope, its)
        recorder.flush(scope, PATIENCE_S)
        os._exit(len(scope.losses))
    _, status = await asyncio.to_thread(os.waitpid, child, 0)  # the server runs in this process
    assert os.waitstatus_to_exitcode(status) == 0
    assert {call.id for call in await trial.store.calls(["a"])} == {mine.id, its.id}
