"""The Ray actor that holds verl's trainer, in the place of verl's task runner: the same order, our trainer and manager."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transfer_queue as tq
from omegaconf import DictConfig, OmegaConf

from leyden.tasks import read_tasks
from leyden_trainer.config import TrainConfig
from leyden_trainer.credit import credit_method
from leyden_trainer.journal import Journal
from leyden_trainer.verl.manager import RolloutManager
from leyden_trainer.verl.trainer import LeydenTrainer

__all__ = ["Job", "TaskRunner"]


@dataclass(frozen=True)
class Job:
    """What a run is, beside verl's configuration. The key is not in that one, which verl prints and logs."""

    settings: TrainConfig
    folder: Path
    server_url: str
    server_key: str
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
        method = credit_method(settings.credit.method, agents=settings.credit.agents)
        trainer = LeydenTrainer(config, settings=settings, run=job.folder.name, method=method, on_cpu=job.on_cpu)
        trainer.init()
        with Journal(job.folder, from_step=trainer.global_steps) as journal:
            manager = RolloutManager(
                settings,
                run=job.folder.name,
                store=(job.server_url, job.server_key),
                method=method,
                tasks=(read_tasks(settings.tasks.train), read_tasks(settings.tasks.heldout)),
                num_groups=_groups_taken(job.folder, trainer.global_steps),
            )
            trainer.write_to(journal)
            trainer.agent_loop_manager = manager
            trainer.serve(held=False)
            trainer.fit(manager)


def _groups_taken(folder: Path, step: int) -> int:
    """How many groups the run had taken when it had made `step` steps: its journal says."""
    taken = 0
    path = folder / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        record = json.loads(line)
        if record["step"] <= step:
            taken = int(record.get("leyden/num_groups", taken))
    return taken
