"""The Ray actor that holds verl's trainer, in the place of verl's task runner: our trainer, our manager."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf

from leyden.tasks import read_tasks
from leyden_trainer.assignment import configured_method
from leyden_trainer.config import TrainConfig
from leyden_trainer.journal import Journal
from leyden_trainer.verl.manager import RolloutManager
from leyden_trainer.verl.trainer import MEMORY, TRAINERS, LeydenTrainer

__all__ = ["Job", "TaskRunner"]


@dataclass(frozen=True)
class Job:
    """What a run is, beside verl's configuration. The key is not in that one, which verl prints and logs."""

    settings: TrainConfig
    folder: Path
    server_url: str
    server_key: str
    judge_key: str | None
    on_cpu: bool


class TaskRunner:
    """Runs one training to its end."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def run(self, config: DictConfig) -> None:
        """verl's `fit`, with all that it needs around it."""
        config.transfer_queue.enable = True
        OmegaConf.resolve(config)
        tq.init(config.transfer_queue)
        try:
            self._fit(config)
        finally:
            tq.close()

    def _fit(self, config: Any) -> None:
        job, settings = self._job, self._job.settings
        method = configured_method(settings)
        trainer = TRAINERS[settings.trainer.mode](
            config, settings=settings, run=job.folder.name, method=method, on_cpu=job.on_cpu
        )
        trainer.init()
        last = _last_record(job.folder, trainer.global_steps)
        with Journal(job.folder, from_step=trainer.global_steps) as journal:
            manager = RolloutManager(
                settings,
                run=job.folder.name,
                store=(job.server_url, job.server_key),
                method=method,
                judge_key=job.judge_key,
                tasks=(read_tasks(settings.tasks.train), read_tasks(settings.tasks.heldout)),
                num_groups=int(last.get("leyden/num_groups", 0)),
            )
            memory = {name.removeprefix(MEMORY): value for name, value in last.items() if name.startswith(MEMORY)}
            trainer.resume(journal, memory)
            trainer.agent_loop_manager = manager
            manager.begin(Path(config.actor_rollout_ref.model.path), after_step=trainer.global_steps)
            trainer.serve(held=False)
            self._train(trainer, manager)

    def _train(self, trainer: LeydenTrainer, manager: RolloutManager) -> None:
        try:
            trainer.fit(manager)  # pyright: ignore[reportArgumentType]  # verl asks for two methods of it
        except RuntimeError:
            manager.check()  # verl saw only that rows are missing; this says why
            raise


def _last_record(folder: Path, step: int) -> dict[str, float]:
    """The figures of the last step that the run's checkpoint holds: what was counted and remembered until then."""
    path = folder / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    records = [record for record in map(json.loads, lines) if record["step"] <= step and "reward" in record]
    return records[-1] if records else {}
