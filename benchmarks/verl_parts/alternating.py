"""One training in which verl's own agent loop and Leyden's take turns, with the same workers, servers and prompts.

The turns are verl, Leyden, Leyden, verl, and so on, so that a drift adds to both. A step's time runs from its begin to
the next one's. Between them, and in neither, the gateway learns the version of the weights and the agents run alone.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from verl.trainer.ppo.v1 import AgentLoopManagerTQ, PPOTrainer, PPOTrainerSync

from leyden_trainer.verl.task_runner import Job, TaskRunner
from leyden_trainer.verl.trainer import TRAINERS, SyncTrainer

__all__ = ["SideBySide"]

NAMES = re.compile(r"ray::\w+|VLLM::\w+|leyden[. ]serve|leyden[. ]run")
ALONE = Path(__file__).with_name("alone.py")


class Alternating(SyncTrainer):
    """Its steps are lines of `steps.jsonl` in the run's folder: who, seconds, CPU seconds by process, tokens,
    seconds by phase."""

    def on_train_begin(self) -> None:
        super().on_train_begin()
        self._leyden: Any = self.agent_loop_manager
        self._verl: Any = AgentLoopManagerTQ.create(
            config=self.config,
            llm_client=self.get_llm_client(),
            teacher_client=None,
            reward_loop_worker_handles=self.get_reward_handles(),
        )
        address = self.llm_server_manager.get_addresses()[0]
        where = {"OPENAI_BASE_URL": f"http://{address}/v1", "AGENT_MODEL": self.config.actor_rollout_ref.model.path}
        self._agents = subprocess.Popen(
            [sys.executable, str(ALONE)],
            env=os.environ | where,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        tasks = [json.loads(line) for line in Path(os.environ["OVERHEAD_TASKS"]).read_text().splitlines()]
        self._tasks = json.dumps(tasks * self.config.actor_rollout_ref.rollout.n)
        self._steps = Path(self.config.trainer.default_local_dir).parent / "steps.jsonl"
        self._step: dict[str, Any] = {}
        self._began, self._cpu = 0.0, defaultdict[str, float](float)

    @property
    def _is_verls(self) -> bool:
        return self.global_steps % 4 in (0, 1)

    def on_step_begin(self) -> None:
        if self._step:
            seconds, cpu = time.perf_counter() - self._began, cpu_seconds()
            self._write({**self._step, "seconds": seconds, "cpu": {name: cpu[name] - self._cpu[name] for name in cpu}})
        if self.global_steps % 2:
            self._write({"who": "agents", **self._alone()})
        if self._is_verls:
            self.agent_loop_manager = self._verl
        else:
            self.agent_loop_manager = self._leyden
            addresses, model = self.llm_server_manager.get_addresses(), self.config.actor_rollout_ref.model.path
            self._leyden.publish(addresses, model=model, version=self.global_steps - 1, held=False)
        self._step = {"who": "verl" if self._is_verls else "leyden"}
        self._began, self._cpu = time.perf_counter(), cpu_seconds()

    def _alone(self) -> dict[str, float]:
        stdin, stdout = self._agents.stdin, self._agents.stdout
        assert stdin is not None
        assert stdout is not None
        print(self._tasks, file=stdin, flush=True)
        return json.loads(stdout.readline())

    def _write(self, step: Mapping[str, Any]) -> None:
        with self._steps.open("a", encoding="utf-8") as file:
            print(json.dumps(step), file=file)

    def on_sample_end(self) -> None:
        if self._is_verls:
            PPOTrainerSync.on_sample_end(self)
        else:
            super().on_sample_end()

    def on_step_end(self) -> None:
        if self._is_verls:
            PPOTrainerSync.on_step_end(self)
        else:
            super().on_step_end()
        self._step["phases"] = dict(self.timing_raw)

    def _note(self, step: int, metrics: Mapping[str, float]) -> None:
        if not self._is_verls:
            super()._note(step, metrics)

    def _get_required_batch_multiple(self, dp_size: int) -> int:
        if self._is_verls:
            return PPOTrainer._get_required_batch_multiple(self, dp_size)
        return super()._get_required_batch_multiple(dp_size)

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        self._step["tokens"] = sum(tag["response_len"] for tag in batch.tags)
        if self._is_verls:
            return PPOTrainer._compute_advantage(self, batch, metrics)
        return super()._compute_advantage(batch, metrics)


class SideBySide(TaskRunner):
    """verl's task runner with this trainer."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        TRAINERS["sync"] = Alternating


def cpu_seconds() -> Mapping[str, float]:
    """Of all processes of the benchmark until now, by what they are."""
    top = psutil.Process(int(os.environ["OVERHEAD_PID"]))
    found = defaultdict[str, float](float)
    for process in top.children(recursive=True):
        try:
            command, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.Error:  # it has ended
            continue
        name = NAMES.search(command)
        found[name[0] if name else "other"] += times.user + times.system
    return found
