"""`leyden credit` as a user types it, on a real store."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

import leyden
from leyden.errors import BadConfig
from leyden.store import SqlStore
from leyden.types import Attempt, Call, Choice, Credit, Outcome, Request, Reward, Rollout, Structure


def answered(rollout: str, number: int, agent: str) -> Call:
    choice = Choice(message={"role": "assistant", "content": "yes"}, token_ids=(1, 2), logprobs=(-0.5, -0.5))
    attempt = Attempt(
        number=0, status="ok", started_at=number, latency_ms=1, version=0, prompt_token_ids=(3,), choices=(choice,)
    )
    return Call(
        id=f"{rollout}-{agent}",
        rollout_id=rollout,
        started_at=number,
        captured_by=("gateway",),
        request=Request(messages=({"role": "user", "content": "go"},)),
        attempts=(attempt,),
        structure=Structure(agent=(agent,)),
    )


async def fill(path: Path) -> None:
    """A group of three, one of which is never run."""
    store = SqlStore.open(str(path))
    await store.queue([Rollout(id=name, group_id="g", mode="train", run="r", step=1) for name in ("a", "b", "c")])
    claims = await store.claim("runner", limit=2, lease_s=60, wait_s=0)
    for claim, reward in zip(claims, (1.0, 0.0), strict=True):
        name = claim.rollout.id
        await store.record([answered(name, 1, "writer"), answered(name, 2, "checker")])
        rewards = (Reward(rollout_id=name, value=reward),)
        await store.finish(
            Outcome(rollout_id=name, attempt=1, runner="runner", status="succeeded", rewards=rewards, call_ids=())
        )
    await store.credit(
        [Credit(call_id="a-writer", rollout_id="a", run="r", step=1, method="broadcast", advantage=0.7, reason="x")]
    )
    await store.close()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    asyncio.run(fill(tmp_path / "store.sqlite"))
    return tmp_path / "store.sqlite"


def credit(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leyden", "credit", *arguments, "--store", str(store)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_stored_rollout_is_credited_by_other_methods_side_by_side(store: Path) -> None:
    done = credit(store, "a", "--method", "dr_grpo", "--method", "rloo", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["group_size"], found["left_out"]) == (2, ["c"])
    writer, checker = found["calls"]
    assert writer["trained"] == ["broadcast", 0.7]
    assert checker["trained"] is None
    assert writer["credit"]["dr_grpo"] == {
        "advantage": 0.5,
        "reason": "0.5 above the mean 0.5 of the 2 rollouts of this task",
    }
    assert writer["credit"]["rloo"]["advantage"] == 1.0


def test_the_table_names_calls_methods_and_reasons(store: Path) -> None:
    done = credit(store, "a-checker", "--method", "gigpo")
    assert done.returncode == 0, done.stderr
    assert "+0.700 broadcast" in done.stdout
    assert "2 gigpo: rollout 0.5 above the mean 0.5 of the 2 rollouts of this task; call 0.5 above" in done.stdout
    assert "calls of checker in the same observation" in done.stdout


def test_a_users_function_may_leave_calls_out(store: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from leyden_trainer.credit import Advantage\n"
        "def writers(group):\n"
        "    return {c.id: Advantage(0.5, 'mine') for r in group for c in r.calls if c.agent == 'writer'}\n"
    )
    lines = credit(store, "a", "--method", f"{tmp_path}/mine.py:writers").stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith((" 1  writer", " 2  checker"))] == ["+0.500", "-"]
    found = json.loads(credit(store, "a", "--method", f"{tmp_path}/mine.py:writers", "--json").stdout)
    assert [len(call["credit"]) for call in found["calls"]] == [1, 0]


def test_what_cannot_be_credited_is_refused_with_the_reason(store: Path) -> None:
    assert "needs a critic's values" in credit(store, "a", "--method", "hae").stderr
    assert "credit.method = 'magic' is unknown" in credit(store, "a", "--method", "magic").stderr
    assert "rollout c is not finished" in credit(store, "c").stderr


def test_a_notebook_gets_the_same_as_a_data_frame(store: Path) -> None:
    table = leyden.credit("a", "dr_grpo", "rloo", store=store).table
    assert table.index.tolist() == ["a-writer", "a-checker"]
    assert table["agent"].tolist() == ["writer", "checker"]
    assert table["trained"].dropna().to_dict() == {"a-writer": 0.7}
    assert table["dr_grpo"].tolist() == [0.5, 0.5]
    assert table["rloo"].tolist() == [1.0, 1.0]
    with pytest.raises(BadConfig, match="the method hae needs a critic's values"):
        leyden.credit("a", "hae", store=store)
