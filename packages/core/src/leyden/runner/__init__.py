"""Runs the user's agent on claimed rollouts: a parent that holds the operator's key, and workers that do not."""

from leyden.runner.options import RunnerOptions
from leyden.runner.runner import Runner

__all__ = ["Runner", "RunnerOptions"]
