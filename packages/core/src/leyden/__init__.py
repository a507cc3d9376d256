"""Leyden: reinforcement learning for the agents that people already have.

In an agent, for those who want it: `leyden.reward(0.5)`, `leyden.reward(1, agent="writer")`, `leyden.current()`.
"""

from leyden.errors import LeydenError
from leyden.rewarding import Current, current, reward
from leyden.types import Attempt, Call, Choice, Credit, Endpoint, Request, Reward, Rollout, Sampling, Structure, ToolUse

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
    "Sampling",
    "Structure",
    "ToolUse",
    "current",
    "reward",
]
__version__ = "0.1.0"
