"""Every credit method through TransferQueue: what verl's workers are given is what the local backend would train on."""

import random
from collections.abc import Iterator, Sequence

import pytest
import ray
import torch
import transfer_queue as tq
from hydra import compose, initialize_config_module
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from leyden.types import Attempt, Call, Choice, Reward, Rollout, Structure
from leyden_trainer.assignment import assigned
from leyden_trainer.config import TrainConfig
from leyden_trainer.credit import METHODS, Advantage, credit_method
from leyden_trainer.experience import Batch, Member
from leyden_trainer.rows import RowScores, TrainingRow
from leyden_trainer.transitions import Transition, transitions
from leyden_trainer.verl.fields import response_start
from leyden_trainer.verl.manager import Experience
from leyden_trainer.verl.scores import TransferredScores, columns_of
from leyden_trainer.verl.session import LOOPBACK
from leyden_trainer.weights import training_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's and verl's own
    pytest.mark.xdist_group("test_same_credit"),  # the tests share a Ray
]


@pytest.fixture(scope="module")
def queue() -> Iterator[None]:
    with initialize_config_module("verl.trainer.config", version_base=None):
        settings = compose("ppo_trainer", ["++transfer_queue.backend.SimpleStorage.num_data_storage_units=1"])
    settings.transfer_queue.enable = True
    ray.init("local", include_dashboard=False, _node_ip_address=LOOPBACK, num_cpus=8, log_to_driver=False)
    tq.init(settings.transfer_queue)
    yield
    tq.close()
    ray.shutdown()


def call(rollout: str, number: int, context: tuple[int, ...], rng: random.Random) -> Call:
    """Of a writer or a checker, whose prompt is what was said before and two more tokens."""
    answer = tuple(rng.randrange(3, 300) for _ in range(rng.randint(1, 4)))
    logprobs = tuple(rng.uniform(-3, -1) for _ in answer)
    choice = Choice(message={"content": str(number)}, token_ids=answer, logprobs=logprobs, finish_reason="stop")
    attempt = Attempt(
        number=0, status="ok", started_at=0, latency_ms=0, version=0, prompt_token_ids=context, choices=(choice,)
    )
    return Call(
        id=f"{rollout}-{number}",
        rollout_id=rollout,
        started_at=number,
        request={"messages": [{"role": "user", "content": f"turn {number}"}]},
        attempts=(attempt,),
        structure=Structure(agent=(("writer", "checker")[number % 2],)),
    )


@pytest.fixture(scope="module")
def groups() -> list[list[Member]]:
    """Two tasks of three rollouts, each of two or three calls, in one row or several."""
    rng, found = random.Random(3), []
    for task in "xy":
        members = []
        for place in range(3):
            name, context, calls = f"{task}{place}", (5, 6, 7), []
            for number in range(rng.randint(2, 3)):
                calls.append(call(name, number, context, rng))
                said = context + calls[-1].attempts[0].choices[0].token_ids
                context = (*said, 8, 9) if rng.random() < 0.7 else (5, 6, 7, number)
            rows = transitions(name, calls, max_tokens=None)
            rewards = (Reward(rollout_id=name, value=float(rng.randrange(4))),)
            members.append(Member(Rollout(id=name, group_id=task), tuple(calls), rewards, tuple(rows), ()))
        found.append(members)
    return found


class LocalScores:
    """What a model might say of the rows, drawn from the row's own tokens: the same for both backends."""

    def __init__(self, heads: int) -> None:
        self._heads = heads

    async def score(self, rows: Sequence[TrainingRow]) -> list[RowScores]:
        return [self._scores(row) for row in rows]

    def _scores(self, row: TrainingRow) -> RowScores:
        rng = random.Random(hash(row.token_ids))
        heads = torch.tensor([[rng.uniform(-1, 1) * kept for kept in row.mask] for _ in range(self._heads)])
        logprobs = torch.tensor(row.logprobs)
        return RowScores(tuple(logprobs.tolist()), tuple(tuple(head) for head in heads.tolist()))


@pytest.mark.parametrize("name", METHODS)
async def test_verls_workers_are_given_what_the_local_backend_trains_on(
    queue: None, groups: list[list[Member]], name: str
) -> None:
    """Advantages, weights, old log probabilities and the critic's targets, exactly; padding rows have nothing."""
    method = credit_method(name)
    config = TrainConfig.model_validate(
        {
            "model": {"path": "m"},
            "agent": {"function": "a.py:f"},
            "reward": {"function": "a.py:g"},
            "tasks": {"train": "t", "heldout": "h"},
        }
    )
    local = LocalScores(method.heads)
    expected = await assigned(groups, config, method, {}, local, always_score=True)

    members = tuple(member for group in groups for member in group)
    rows = {f"{member.rollout.id}_0_{index}": row for member in members for index, row in enumerate(member.transitions)}
    experience = Experience(Batch(tuple(map(tuple, groups)), members, 0), rows)
    batch = await transferred(rows, local, name)
    scored = TransferredScores(batch, experience, with_values=method.needs_critic)
    found = await assigned(groups, config, method, {}, scored, always_score=True)
    assert found.advantages == expected.advantages
    assert found.rows == expected.rows

    columns = columns_of(batch, experience, found, values=scored.values, parts=2)
    assert_rows_are_in(columns, rows, expected.rows)


async def transferred(rows: dict[str, Transition], local: LocalScores, partition: str) -> KVBatchMeta:
    """The scores as verl's workers leave them in the queue, over responses, and one padding row of verl's."""
    everyone = {span.call_id: Advantage(0.0, "") for row in rows.values() for span in row.spans}
    scores = await local.score(training_rows(list(rows.values()), everyone))
    keys, tags = [*rows, "padding_0_0"], []
    columns: dict[str, list[torch.Tensor]] = {"old_log_probs": [], "values": []}
    for row, score in zip(rows.values(), scores, strict=True):
        start = response_start(row)
        columns["old_log_probs"].append(torch.tensor(score.logprobs[start:]))
        heads = torch.tensor(score.values).reshape(len(score.values), -1).T if score.values else torch.zeros(0)
        columns["values"].append(heads[start:].squeeze(-1))
        tags.append({"response_len": len(row.token_ids) - start})
    columns["old_log_probs"].append(torch.zeros(1))
    columns["values"].append(torch.zeros_like(columns["values"][0][:1]))
    tags.append({"response_len": 1})
    if not scores[0].values:
        del columns["values"]
    fields = {n: torch.nested.as_nested_tensor(c, layout=torch.jagged) for n, c in columns.items()}
    return tq.kv_batch_put(
        keys=keys, partition_id=partition, fields=TensorDict(fields, batch_size=len(keys)), tags=tags
    )


def assert_rows_are_in(
    columns: dict[str, list[torch.Tensor]], rows: dict[str, Transition], expected: list[TrainingRow]
) -> None:
    """`expected` are those rows, in order, that have a trained call; `parts` is 2."""
    left = list(expected)
    for place, transition in enumerate(rows.values()):
        start = response_start(transition)
        row = left.pop(0) if left and left[0].token_ids == transition.token_ids else None
        for name, factor, figures in (
            ("advantages", 1, row and row.advantages),
            ("rollout_is_weights", 2, row and row.weights),
            ("old_log_probs", 1, row and row.logprobs),
        ):
            wanted = torch.tensor(figures[start:] if figures else [0.0] * (len(transition.token_ids) - start))
            torch.testing.assert_close(columns[name][place], wanted * factor, rtol=0, atol=0)
        if row and row.targets:
            weights = columns["value_weights"][place]
            assert int((weights > 0).sum()) == len(row.targets)
            for target in row.targets:
                spot = (target.place - start, target.head)
                told = [columns[name][place][spot] for name in ("value_targets", "value_weights", "old_values")]
                torch.testing.assert_close(
                    torch.stack(told), torch.tensor([target.target, 2 * target.weight, target.value]), rtol=0, atol=0
                )
    assert left == []
    assert all(not column[-1].any() for name, column in columns.items())
