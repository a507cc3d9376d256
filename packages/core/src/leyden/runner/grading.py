"""The reward function, called in the parent process; whatever is wrong with a reward makes the rollout incomplete."""

import asyncio
import inspect
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import JsonValue, ValidationError

from leyden.errors import BadReward
from leyden.exception_text import exception_text
from leyden.runner.reference import load_function
from leyden.types import Call, Failure, Reward, Rollout

__all__ = ["Grader", "called"]


class Grader:
    """A user's `score(task, result)`, or `score(task, result, calls)`; sync or async."""

    def __init__(self, reference: str) -> None:
        self._reference = reference
        self._function: Callable[..., Any] = load_function(reference)
        self.wants_calls = len(inspect.signature(self._function).parameters) > 2

    async def grade(self, rollout: Rollout, result: JsonValue, calls: Sequence[Call]) -> Reward | Failure:
        """The reward, or why there is none."""
        arguments = (rollout.task, result, list(calls)) if self.wants_calls else (rollout.task, result)
        value = await called(f"the reward function {self._name}", self._function, *arguments)
        if isinstance(value, Failure):
            return value
        if value is None:
            return self._refused("returned None; return a finite number, or True or False")
        try:
            return Reward(rollout_id=rollout.id, attempt=rollout.attempt, value=value, name="score", source="grader")
        except (BadReward, ValidationError) as error:
            return self._refused(f"gave no reward that can be used: {error}")

    def _refused(self, why: str) -> Failure:
        return Failure(kind="reward_error", message=f"the reward function {self._name} {why}")

    @property
    def _name(self) -> str:
        return self._reference.rpartition(":")[2]


async def called(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a user's function that gives rewards returns, sync or async; a `Failure` that names `what` if it raised."""
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*arguments)
        return await asyncio.to_thread(function, *arguments)
    except Exception as error:  # the runner boundary: a reward function that raises
        text = "".join(traceback.format_exception(error))
        message = f"{what} raised {exception_text(error)}"
        return Failure(kind="reward_error", message=message, traceback=text)
