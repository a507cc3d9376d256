"""What the store says to input that repeats itself or has only half of what it needs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from leyden.errors import BadInput, Conflict
from leyden.store import SqlStore
from leyden.testing.records import claimed, ended, sampled
from leyden.types import Choice, Failure, Rollout


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore.open(tmp_path / "store.sqlite")
    yield store
    await store.close()


async def test_a_rollout_twice_in_one_list_is_one_rollout_or_a_conflict(store: SqlStore) -> None:
    rollout = Rollout(id="one", group_id="g", task="a")
    await store.queue([rollout, rollout])
    assert len((await store.rollouts()).rollouts) == 1
    with pytest.raises(Conflict, match="two"):
        await store.queue([Rollout(id="two", group_id="g", task="a"), Rollout(id="two", group_id="g", task="b")])
    assert len((await store.rollouts()).rollouts) == 1


@pytest.mark.parametrize("half", [{"token_ids": (1,)}, {"logprobs": (-0.5,)}])
async def test_token_ids_and_logprobs_come_together_or_not_at_all(store: SqlStore, half: dict[str, object]) -> None:
    await claimed(store, "one")
    choice = Choice.model_validate({"message": {}, **half})
    with pytest.raises(BadInput, match="call x"):
        await store.record([sampled("one", "x", choices=(choice,))])


async def test_the_failure_of_the_last_lost_attempt_is_kept(store: SqlStore) -> None:
    await claimed(store, "one", max_attempts=1)
    failure = Failure(kind="infrastructure", message="the worker died", traceback="…")
    assert (await store.finish(ended("one", status="lost", failure=failure))).failure == failure
