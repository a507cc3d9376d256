"""What every store must do with runs and their steps: a part of `StoreContract`."""

import pytest

from leyden.errors import NotFound
from leyden.store.protocol import Store
from leyden.types import Run, Step

__all__ = ["Noting"]


class Noting:
    """Runs and their steps."""

    async def test_a_run_reads_back_and_the_newest_comes_first(self, store: Store) -> None:
        first = Run(name="first", config={"seed": 1, "tasks": ["a", None]}, tokenizer="t.json", started_at=1.0)
        second = Run(name="second", started_at=2.0)
        await store.begin(first)
        await store.begin(second)
        assert await store.runs() == [second, first]
        again = first.model_copy(update={"config": {"seed": 2}, "started_at": 3.0})
        await store.begin(again)
        assert await store.runs() == [again, second]

    async def test_metrics_of_a_step_are_added_and_the_latest_value_stays(self, store: Store) -> None:
        await store.begin(Run(name="r"))
        await store.note([Step(run="r", step=2, metrics={"reward": 0.5, "kl": 0.1}, noted_at=1.0)])
        await store.note([Step(run="r", step=0, metrics={"heldout": 0.25}, noted_at=2.0)])
        await store.note([Step(run="r", step=2, metrics={"heldout": 0.75, "kl": 0.2}, noted_at=3.0)])
        assert await store.steps("r") == [
            Step(run="r", step=0, metrics={"heldout": 0.25}, noted_at=2.0),
            Step(run="r", step=2, metrics={"reward": 0.5, "kl": 0.2, "heldout": 0.75}, noted_at=3.0),
        ]
        assert await store.steps("other") == []

    async def test_a_resumed_run_forgets_the_steps_that_it_does_again(self, store: Store) -> None:
        for name in ("r", "other"):
            await store.begin(Run(name=name))
            await store.note([Step(run=name, step=step, metrics={"reward": step}) for step in (1, 2, 3)])
        await store.begin(Run(name="r"), after_step=2)
        assert [step.step for step in await store.steps("r")] == [1, 2]
        assert [step.step for step in await store.steps("other")] == [1, 2, 3]

    async def test_steps_of_a_run_that_was_never_begun_are_refused_all_of_them(self, store: Store) -> None:
        await store.begin(Run(name="r"))
        with pytest.raises(NotFound, match="nobody"):
            await store.note([Step(run=name, step=1, metrics={}) for name in ("r", "nobody")])
        assert await store.steps("r") == []
