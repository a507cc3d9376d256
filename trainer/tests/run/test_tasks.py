import itertools
import json
from pathlib import Path

import pytest

from leyden.errors import BadConfig, BadTask
from leyden.tasks import read_tasks
from leyden_trainer.config import TrainConfig
from leyden_trainer.tasks import check_apart, evaluation_rollouts, train_groups


def make_config(**trainer: int) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": {"path": "x"},
            "agent": {"function": "a.py:f"},
            "reward": {"function": "a.py:g"},
            "tasks": {"train": "t", "heldout": "h"},
            "trainer": trainer,
        }
    )


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(BadTask, match=r"tasks\.jsonl, line 3: not JSON"):
        read_tasks(path)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_a_task_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(text)
    with pytest.raises(BadTask, match="has no task"):
        read_tasks(path)


def test_a_held_out_task_must_not_be_trained_on_whatever_its_id() -> None:
    with pytest.raises(BadConfig, match="held-out task 2 is also training task 1"):
        check_apart([{"id": "a", "q": 1}, {"q": 2}], [{"q": 3}, {"id": "b", "q": 1}])


def test_each_pass_takes_every_task_once_in_an_order_that_the_seed_decides() -> None:
    config = make_config(rollouts_per_task=2)
    tasks = [{"q": number} for number in range(5)]
    groups = list(itertools.islice(train_groups(config, "run", 1, tasks, 0), 10))
    order = [json.dumps(group[0].task) for group in groups]
    assert sorted(order[:5]) == sorted(order[5:]) == sorted(map(json.dumps, tasks))
    assert order[:5] != order[5:]
    other = config.model_copy(update={"seed": 1})
    assert [json.dumps(g[0].task) for g in itertools.islice(train_groups(other, "run", 1, tasks, 0), 10)] != order


def test_a_group_shares_its_task_and_every_rollout_has_its_own_seed_and_id() -> None:
    config = make_config(rollouts_per_task=4)
    group, other = itertools.islice(train_groups(config, "run", 3, ["x", "y"], 0), 2)
    assert {rollout.group_id for rollout in group} == {"run-s3-g0"}
    assert len({r.id for r in group + other}) == len({r.sampling.seed for r in group + other}) == 8
    assert {rollout.step for rollout in group} == {3}


def test_a_resumed_step_asks_for_the_same_rollouts_again() -> None:
    config = make_config()
    ids = [[[r.id for r in g] for g in itertools.islice(train_groups(config, "run", 2, [1, 2, 3], 5), 3)] for _ in "ab"]
    assert ids[0] == ids[1]


def test_held_out_tasks_run_once_each_and_greedily_by_default() -> None:
    rollouts = evaluation_rollouts(make_config(), [{"id": "one"}, {"q": 2}], run="run", name="h4", step=4)
    assert [rollout.task_id for rollout in rollouts] == ["one", "2"]
    assert {(rollout.mode, rollout.sampling.temperature) for rollout in rollouts} == {("eval", 0.0)}


def test_an_evaluation_takes_no_reward_of_an_agent_where_training_takes_none() -> None:
    config = make_config().model_copy(update={"reward_from": "grader"})
    rollouts = evaluation_rollouts(config, [1], run="run", name="c0", step=0, tries=2, temperature=1.0)
    assert [rollout.reward_from for rollout in rollouts] == ["grader", "grader"]


def test_two_policies_are_evaluated_on_the_same_draws() -> None:
    first, second = (
        evaluation_rollouts(make_config(), [1, 2], run="run", name=f"c{step}", step=step, tries=3, temperature=0.7)
        for step in (0, 9)
    )
    seeds = [rollout.sampling.seed for rollout in first]
    assert len(set(seeds)) == 6
    assert [rollout.sampling.seed for rollout in second] == seeds
    assert {rollout.id for rollout in first}.isdisjoint(rollout.id for rollout in second)
    assert [rollout.group_id for rollout in first] == ["run-c0-1"] * 3 + ["run-c0-2"] * 3


def test_a_run_that_is_begun_anew_has_ids_of_its_own_and_the_same_tasks() -> None:
    config = make_config(rollouts_per_task=2)
    (first,) = itertools.islice(train_groups(config, "run", 3, ["x", "y"], 5), 1)
    (again,) = itertools.islice(train_groups(config, "run", 3, ["x", "y"], 5, begun=2), 1)
    assert [r.id for r in again] == ["run-b2-s3-g0-r0", "run-b2-s3-g0-r1"]
    assert [(r.task, r.run, r.step) for r in again] == [(r.task, r.run, r.step) for r in first]
