"""What a finished rollout can be found by."""

from pathlib import Path

from sqlalchemy import select

from leyden.store import SqlStore
from leyden.store.facets import kind_of_reason
from leyden.store.schema import labels, rollouts
from leyden.testing.records import claimed, ended, rewarded, sampled, told


async def found_by(store: SqlStore) -> tuple[list[tuple[str, float | None]], list[tuple[str, str]]]:
    """(id, return) of each rollout, and the labels."""
    totals = select(rollouts.c.id, rollouts.c.total).order_by(rollouts.c.seq)
    names = select(labels.c.kind, labels.c.name).order_by(labels.c.kind, labels.c.name)
    return await store.look(lambda c: ([tuple(r) for r in c.execute(totals)], [tuple(r) for r in c.execute(names)]))


async def test_an_ended_rollout_is_found_by_its_return_and_its_agents(tmp_path: Path) -> None:
    store = SqlStore.open(tmp_path / "store.sqlite")
    await claimed(store, "one", "two", step=4, task_id="t" * 300)
    await store.record([told("one", "x"), sampled("one", "x"), told("one", "y", agent=("planner",))])
    style = rewarded("one", 9, agent="writer")
    assert await found_by(store) == ([("one", None), ("two", None)], [])
    await store.finish(ended("one", rewards=(rewarded("one", 0.5), style), call_ids=("x",)))
    await store.reward([rewarded("one", 0.25, name="judge"), rewarded("two", 1)])
    totals, names = await found_by(store)
    assert totals == [("one", 0.75), ("two", None)]  # a reward that comes late counts; that of an agent does not
    assert [name for kind, name in names if kind == "agent"] == ["planner", "writer"]
    assert [name for kind, name in names if kind == "reason"] == [
        "a call is dangling: it has no terminal record from the gateway"
    ]
    step = select(rollouts.c.step, rollouts.c.task_id)
    assert await store.look(lambda c: tuple(c.execute(step).first() or ())) == (4, "t" * 200)
    await store.delete_rollouts(["one"])
    assert await found_by(store) == ([("two", None)], [])
    await store.close()


def test_reasons_of_one_kind_are_one_reason() -> None:
    kinds = {
        "call ab12 was made but never recorded": "a call was made but never recorded",
        "3 of at most 3 attempts were lost, number 3 because: its runner bob-7 was silent for longer than the lease": (
            "… of at most … attempts were lost, number … because: its runner … was silent for longer than the lease"
        ),
        "it has no reward: name a reward function": "it has no reward: name a reward function",
    }
    assert {reason: kind_of_reason(reason) for reason in kinds} == kinds
