"""Leyden: reinforcement learning for the agents that people already have.

In an agent, for those who want it: `leyden.reward(0.5)`, `leyden.reward(1, agent="writer")`, `leyden.current()`.
In a notebook, what the commands do: `leyden.run(agent, tasks, reward, ...)`, `leyden.show(id)`, and so on; with
`leyden-trainer` installed `leyden.train(agent, tasks, reward, model=...)`, `leyden.Run(folder)`, `leyden.credit(id)`.
"""

from typing import TYPE_CHECKING, Any

from leyden.errors import LeydenError
from leyden.rewarding import Current, current, reward
from leyden.types import Attempt, Call, Choice, Credit, Endpoint, Request, Reward, Rollout, Sampling, Structure, ToolUse

if TYPE_CHECKING:  # seconds of imports, for those who ask; torch, in the trainer's
    from leyden.api import doctor, export, gc, import_episodes, rollouts, run, show
    from leyden_trainer.api import credit, train
    from leyden_trainer.run import Run

__all__ = [
    "Attempt",
    "Call",
    "Choice",
    "Credit",
    "Current",
    "Endpoint",
    "LeydenError",
    "Request",
    "Reward",
    "Rollout",
    "Run",
    "Sampling",
    "Structure",
    "ToolUse",
    "credit",
    "current",
    "doctor",
    "export",
    "gc",
    "import_episodes",
    "reward",
    "rollouts",
    "run",
    "show",
    "train",
]
__version__ = "0.1.0"

_TRAINER = {"train": "leyden_trainer.api", "Run": "leyden_trainer.run", "credit": "leyden_trainer.api"}
_COMMANDS = ("doctor", "export", "gc", "import_episodes", "rollouts", "run", "show")


def __getattr__(name: str) -> Any:
    """What the commands do, imported when it is first asked for."""
    module = "leyden.api" if name in _COMMANDS else _TRAINER.get(name)
    if module is None:
        raise AttributeError(f"module 'leyden' has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if name not in _TRAINER:
            raise
        raise ImportError(f"leyden.{name} needs the package leyden-trainer: {error}") from error
