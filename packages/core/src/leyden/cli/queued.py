"""What `leyden run` queues for its tasks."""

from pydantic import JsonValue

from leyden.tasks import task_id
from leyden.types import RewardFrom, Rollout, Sampling, new_id

__all__ = ["queued_rollouts"]


def queued_rollouts(
    tasks: list[JsonValue], *, tries: int, routed: bool, run: str, reward_from: RewardFrom
) -> list[Rollout]:
    """`tries` rollouts of each task, in one group; measured when the model is behind the gateway, else only traced."""
    rollouts: list[Rollout] = []
    for number, task in enumerate(tasks, 1):
        group_id = new_id()
        rollouts += [
            Rollout(
                group_id=group_id,
                task_id=task_id(task, number),
                task=task,
                mode="eval" if routed else "trace",
                run=run,
                sampling=Sampling(),
                reward_from=reward_from,
            )
            for _ in range(tries)
        ]
    return rollouts
