"""The Ray actor that holds verl's trainer, in the place of verl's task runner: our trainer, our manager."""

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
from leyden_trainer.verl.remembered import begin
from leyden_trainer.verl.trainer import TRAINERS, LeydenTrainer

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
            config, settings=settings, folder=job.folder, method=method, on_cpu=job.on_cpu
        )
        trainer.init()
        remembered = begin(job.folder, step=trainer.global_steps)
        with Journal(job.folder, from_step=trainer.global_steps) as journal:
            manager = RolloutManager(
                settings,
                run=job.folder.name,
                store=(job.server_url, job.server_key),
                method=method,
                judge_key=job.judge_key,
                tasks=(read_tasks(settings.tasks.train), read_tasks(settings.tasks.heldout)),
                remembered=remembered,
            )
            trainer.resume(journal, remembered)
            trainer.agent_loop_manager = manager
            manager.begin(Path(config.actor_rollout_ref.model.path), after_step=trainer.global_steps)
            manager.withdraw(from_number=len(trainer.llm_server_manager.get_addresses()))
            trainer.serve(held=False)
            self._train(trainer, manager)
            manager.withdraw()

    def _train(self, trainer: LeydenTrainer, manager: RolloutManager) -> None:
        try:
            trainer.fit(manager)  # pyright: ignore[reportArgumentType]  # verl asks for two methods of it
        finally:
            manager.check()  # verl saw only that rows are missing; this says why
