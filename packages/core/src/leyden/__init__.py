"""Leyden: reinforcement learning for the agents that people already have.

In an agent, for those who want it: `leyden.reward(0.5)`, `leyden.reward(1, agent="writer")`, `leyden.current()`.
In a notebook, with `leyden-trainer` installed: `leyden.train(agent, tasks, reward, model=...)`, `leyden.Run(folder)`.
"""

from typing import TYPE_CHECKING, Any

from leyden.errors import LeydenError
from leyden.rewarding import Current, current, reward
from leyden.types import Attempt, Call, Choice, Credit, Endpoint, Request, Reward, Rollout, Sampling, Structure, ToolUse

if TYPE_CHECKING:  # another package, which imports torch
    from leyden_trainer.api import train
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
    "current",
    "reward",
    "train",
]
__version__ = "0.1.0"

_OF_THE_TRAINER = {"train": "leyden_trainer.api", "Run": "leyden_trainer.run"}


def __getattr__(name: str) -> Any:
    """The names of `leyden-trainer`, imported when they are first asked for."""
    if name not in _OF_THE_TRAINER:
        raise AttributeError(f"module 'leyden' has no attribute {name!r}")
    import importlib

    try:
        return getattr(importlib.import_module(_OF_THE_TRAINER[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"leyden.{name} needs the package leyden-trainer: {error}") from error
