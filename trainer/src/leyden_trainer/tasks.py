"""The order in which a run takes its tasks: endless, reshuffled every pass, the same for the same seed."""

import json
import random
from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from leyden.errors import BadConfig
from leyden.tasks import task_id
from leyden.types import Rollout, Sampling
from leyden_trainer.config import TrainConfig

__all__ = ["check_apart", "evaluation_rollouts", "train_groups"]


def check_apart(train: Sequence[JsonValue], heldout: Sequence[JsonValue]) -> None:
    """Refuse a task that is both trained on and held out (its "id" aside).

    Raises:
        BadConfig: naming the first such task.
    """
    seen = {_content(task): number for number, task in enumerate(train, 1)}
    for number, task in enumerate(heldout, 1):
        if _content(task) in seen:
            raise BadConfig(
                f"held-out task {number} is also training task {seen[_content(task)]}: {_content(task)[:200]}; "
                "take it out of one of the two files, or the held-out score means nothing"
            )


def _content(task: JsonValue) -> str:
    if isinstance(task, dict):
        task = {key: value for key, value in task.items() if key != "id"}
    return json.dumps(task, sort_keys=True)


def train_groups(
    config: TrainConfig, run: str, step: int, tasks: Sequence[JsonValue], start: int, *, begun: int = 1
) -> Iterator[list[Rollout]]:
    """Endless groups for optimiser step `step`, from position `start` of the run's order of tasks.

    Ids are made from run, step and place, so that a resumed run finds what it had queued before. It shall not where it
    cannot have the same weights again: `begun`, above 1, sets its ids apart.
    """
    again = f"-b{begun}" if begun > 1 else ""
    wanted = config.sampling
    for place in range(10**9):
        epoch, index = divmod(start + place, len(tasks))
        order = list(range(len(tasks)))
        random.Random(f"{config.seed} {epoch}").shuffle(order)
        group_id = f"{run}{again}-s{step}-g{place}"
        yield [
            Rollout(
                id=f"{group_id}-r{member}",
                group_id=group_id,
                task_id=task_id(tasks[order[index]], order[index] + 1),
                task=tasks[order[index]],
                mode="train",
                run=run,
                step=step,
                reward_from=config.reward_from,
                sampling=Sampling(
                    temperature=wanted.temperature,
                    top_p=wanted.top_p,
                    max_tokens=wanted.max_tokens,
                    bending=wanted.bending,
                    seed=_seed(config.seed, step, place, member),
                ),
            )
            for member in range(config.trainer.rollouts_per_task)
        ]


def evaluation_rollouts(
    config: TrainConfig,
    tasks: Sequence[JsonValue],
    *,
    run: str,
    name: str,
    step: int,
    tries: int = 1,
    temperature: float | None = None,
) -> list[Rollout]:
    """`tries` rollouts of each task, those of a task as one group.

    Seeds depend on task and try alone, so that two policies are compared on the same draws.

    Args:
        name: of the evaluation within the run, in the rollouts' ids.
        step: the policy is that after so many steps.
        temperature: None is sampling.heldout_temperature; 0 is greedy.
    """
    wanted = config.sampling
    heat = wanted.heldout_temperature if temperature is None else temperature
    return [
        Rollout(
            id=f"{run}-{name}-{place}-r{member}",
            group_id=f"{run}-{name}-{place}",
            task_id=task_id(task, place),
            task=task,
            mode="eval",
            run=run,
            step=step,
            reward_from=config.reward_from,
            sampling=Sampling(
                temperature=heat,
                top_p=wanted.top_p if heat else 1.0,
                max_tokens=wanted.max_tokens,
                bending=wanted.bending,
                seed=random.Random(f"{config.seed} {place} {member}").getrandbits(31),
            ),
        )
        for place, task in enumerate(tasks, 1)
        for member in range(tries)
    ]


def _seed(seed: int, step: int, place: int, member: int) -> int:
    return random.Random(f"{seed} {step} {place} {member}").getrandbits(31)
