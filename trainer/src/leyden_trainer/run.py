"""A run that has trained, to look at: its summary, its curves and rollouts as data frames, its checkpoints."""

import contextlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import JsonValue

from leyden.blocking import finished
from leyden.cli.episodes import exported
from leyden.cli.show import Shown, read_shown
from leyden.cli.source import open_source
from leyden.errors import BadConfig
from leyden.store.protocol import Store
from leyden.tasks import read_tasks
from leyden.types import Call, Rollout
from leyden_trainer.config import TrainConfig
from leyden_trainer.evaluation import Tries
from leyden_trainer.evaluation_report import Report
from leyden_trainer.folders import checkpoint_folder, fresh_folder, trained_checkpoint
from leyden_trainer.recomputed import Recomputed, recomputed

if TYPE_CHECKING:  # half a second to import, for those who ask for a data frame
    import pandas as pd

__all__ = ["Run"]

T = TypeVar("T")


@dataclass(frozen=True)
class Run:
    """One run by its folder. Raises `BadConfig` if the folder holds none."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / "config.json").is_file():
            raise BadConfig(f"{self.folder} is no run's folder: it has no config.json")

    @cached_property
    def config(self) -> TrainConfig:
        """As the run was begun."""
        return TrainConfig.model_validate_json((self.folder / "config.json").read_text(encoding="utf-8"))

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`; empty while the run is not at its end."""
        file = self.folder / "summary.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    @property
    def curves(self) -> "pd.DataFrame":
        """Every metric by optimiser step; step 0 has the held-out score before training alone."""
        import pandas as pd

        records: dict[int, dict[str, float]] = {}
        for line in (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            records.setdefault(record.pop("step"), {}).update(record)
        return pd.DataFrame.from_dict(records, orient="index").rename_axis("step").sort_index()

    def rollouts(self) -> "pd.DataFrame":
        """One row a rollout, by id: step, mode, task, status, reward, number of calls; rewards are those of the rollout
        as a whole, summed."""
        import pandas as pd

        rows = self._read(lambda store: _rollout_rows(store, self.folder.name))
        return pd.DataFrame(rows).set_index("id")

    def calls(self, rollout_id: str) -> list[Call]:
        """The calls of a rollout, in order, as they were recorded."""
        return self._read(lambda store: store.calls([rollout_id]))

    def show(self, rollout_id: str) -> Shown:
        """One rollout with its calls, rewards and credits, as `leyden.show`."""
        return finished(read_shown(rollout_id, *self._place))

    def credit(self, rollout_id: str, *methods: str) -> Recomputed:
        """One rollout credited again by other methods, as `leyden.credit`."""
        return finished(recomputed(rollout_id, methods, *self._place))

    def export(self, file: str | Path) -> int:
        """Write the run's finished rollouts to a file, .jsonl or .parquet, as `leyden.export`; returns how many."""
        store, server = self._place
        return finished(exported(Path(file), store=store, server=server, run=self.folder.name))

    def checkpoint(self, name: str | None = None) -> Path:
        """The folder of a model that transformers loads.

        Args:
            name: best, last, base (what training started from), or a folder; None: best, or last where the run left no
                best, as on verl.

        Raises:
            BadConfig: this run has no such checkpoint.
        """
        name = name or trained_checkpoint(self.folder) or "best"
        if name not in ("best", "last"):
            return checkpoint_folder(self.config, name)
        if not (folder := self.folder / "checkpoints" / name).is_dir():
            there = sorted(path.name for path in folder.parent.glob("*"))
            raise BadConfig(f"run {self.folder} has no checkpoint {name!r}; it has {', '.join(there) or 'none yet'}")
        return folder

    def evaluate(
        self,
        *checkpoints: str,
        tasks: Sequence[JsonValue] | Path | None = None,
        tries: int = 1,
        temperature: float | None = None,
        success: float = 1.0,
    ) -> Report:
        """As `leyden eval`: how good checkpoints are on tasks, and of two, whether the second is better.

        Args:
            checkpoints: names as for `checkpoint`; none is "base" and what `checkpoint` takes for None.
            tasks: JSON values, or a file; None: the run's held-out tasks.
            temperature: None is greedy for one try and the run's sampling temperature for more.
        """
        from leyden_trainer.evaluating import Checkpoint, evaluate

        names = checkpoints or ("base", trained_checkpoint(self.folder) or "best")
        named = [Checkpoint(name, self.checkpoint(name)) for name in names]
        heat = temperature if temperature is not None else self.config.sampling.temperature if tries > 1 else 0.0
        output = fresh_folder(self.config, suffix="-eval")
        given = self.config.tasks.heldout if tasks is None else tasks
        file = given if isinstance(given, Path) else _written(given, output)
        how, key = Tries(tries, heat, success), os.environ.get("LEYDEN_KEY")
        found = finished(
            evaluate(self.config, named, read_tasks(file), how, output, server_key=key, progress=lambda _, __: None)
        )
        return Report(file, heat, sorted({1, tries}), found)

    @contextlib.contextmanager
    def serving(self, checkpoint: str | None = None, *, port: int = 0) -> Iterator[str]:
        """Serve a checkpoint on loopback for the time of the block; gives the base URL that an agent needs."""
        from leyden_trainer.local.serving import ServedModel, ServingOptions

        options = ServingOptions(self.config.model.device, self.config.model.context_length, port=port)
        template = self.config.model.chat_template
        model = ServedModel.load(self.checkpoint(checkpoint), options, chat_template=template)
        model.server.start()
        try:
            yield model.server.url
        finally:
            model.sampler.close()
            model.server.stop()

    @property
    def _place(self) -> tuple[str | None, str | None]:
        """The run's own database, or the server that it has named."""
        server = self.config.server or None
        return None if server else str(self.folder / "store.sqlite"), server

    def _read(self, reading: Callable[[Store], Coroutine[Any, Any, T]]) -> T:
        async def read() -> T:
            store = open_source(*self._place)
            try:
                return await reading(store)
            finally:
                await store.close()

        return finished(read())

    def __repr__(self) -> str:
        scores = {name: self.summary[name] for name in ("eval_before", "eval_after") if name in self.summary}
        said = ", ".join(f"{name.removeprefix('eval_')} {score:.3f}" for name, score in scores.items())
        return f"Run({str(self.folder)!r}{f', held-out {said}' if said else ''})"


async def _rollout_rows(store: Store, run: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    after, more = 0, True
    while more:
        page = await store.rollouts(run=run, after=after, limit=200)
        ids = [rollout.id for rollout in page.rollouts]
        calls = Counter(call.rollout_id for call in await store.calls(ids))
        totals: defaultdict[str, float] = defaultdict(float)
        for reward in await store.rewards(ids):
            if reward.agent is None and reward.call_id is None:
                totals[reward.rollout_id] += reward.value
        rows += [_row(rollout, totals.get(rollout.id), calls[rollout.id]) for rollout in page.rollouts]
        after, more = page.cursor, page.more
    return rows


def _row(rollout: Rollout, reward: float | None, num_calls: int) -> dict[str, Any]:
    return {
        "id": rollout.id,
        "step": rollout.step,
        "mode": rollout.mode,
        "task_id": rollout.task_id,
        "task": rollout.task,
        "status": rollout.status,
        "reward": reward,
        "calls": num_calls,
        "incomplete": "; ".join(rollout.incomplete),
    }


def _written(tasks: Sequence[JsonValue], folder: Path) -> Path:
    file = folder / "tasks.jsonl"
    file.write_text("".join(f"{json.dumps(task)}\n" for task in tasks), encoding="utf-8")
    return file
