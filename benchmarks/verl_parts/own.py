"""What verl's own agent loop needs in a run of Leyden's: prompts in the data loader, and a reward function.

Named in verl's configuration, which loads this file by its path.
"""

import json
import os
from pathlib import Path
from typing import Any

from agent import score

from leyden_trainer.verl.dataset import Places

__all__ = ["Prompts", "compute_score"]


class Prompts(Places):
    """The tasks, over and over: a step takes each once, as Leyden's does."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        tasks = Path(os.environ["OVERHEAD_TASKS"]).read_text(encoding="utf-8").splitlines()
        self._messages = [json.loads(line)["messages"] for line in tasks]

    def __getitem__(self, index: int) -> dict[str, Any]:
        messages = self._messages[index % len(self._messages)]
        return {**super().__getitem__(index), "raw_prompt": messages, "reward_model": {"ground_truth": ""}}


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any, **_: Any) -> float:
    """verl's signature."""
    return score({}, solution_str)
