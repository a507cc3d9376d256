"""`leyden train` as a user types it: server, runner, policy server and learner, on a tiny model made on the spot."""

import asyncio
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leyden import __version__ as leyden_version
from leyden.store import SqlStore
from leyden.testing.elder_server import elder_server
from leyden.types import Run, Step

Leyden = Callable[..., subprocess.CompletedProcess[str]]
AGENT = """
from langchain_openai import ChatOpenAI

llm = ChatOpenAI(model="gpt-4o-mini", max_tokens=4, temperature=0)

def solve(task):
    return llm.invoke(task["question"]).text
"""
REWARD = """
def score(task, result):
    return len(result) % 3 == 0
"""
CONFIG = """
agent.concurrency = 8
[optimizer]
learning_rate = 1e-3
[trainer]
steps = 2
tasks_per_step = 2
rollouts_per_task = 4
evaluate_every = 2
"""


@pytest.fixture
def folder(write_folder: Callable[..., Path]) -> Path:
    return write_folder(AGENT, REWARD, CONFIG)


async def noted_in(folder: Path) -> tuple[Run, list[Step]]:
    store = SqlStore.open(folder / "store.sqlite")
    (run,), steps = await store.runs(), await store.steps(folder.name)
    await store.close()
    return run, steps


def test_two_steps_leave_a_summary_a_checkpoint_and_credit(folder: Path, leyden: Leyden) -> None:
    done = leyden("train", "train.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    run = folder / "runs" / "tiny"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["rollouts"], summary["seed"]) == (2, 16, 0)
    assert {"eval_before", "eval_after", "seconds", "model"} <= set(summary)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 2]
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("reward")] == [1, 2]
    assert [event.step for event in board.Scalars("heldout")] == [0, 2]
    noted, measured = asyncio.run(noted_in(run))
    assert noted.config["trainer"]["steps"] == 2  # type: ignore[index]
    assert [step.step for step in measured] == [0, 1, 2]
    assert measured[2].metrics.keys() >= {
        "reward",
        "success",
        "reward_error",
        "heldout",
        "heldout_error",
        "seconds_update",
    }
    assert measured[1].metrics["staleness"] == 0
    assert Path(noted.tokenizer or "") == run / "tokenizer.json"
    assert (run / "tokenizer.json").is_file()
    assert (run / "curve.png").stat().st_size > 1000
    assert (run / "checkpoints" / "last" / "model.safetensors").is_file()
    parts = json.loads(leyden("show", "tiny-s1-g0-r0", "--store", str(run / "store.sqlite"), "--json").stdout)
    assert parts["credits"][0]["method"] == "broadcast"
    assert parts["calls"][0]["attempts"][0]["version"] == 0
    told = re.findall(r"leyden show .*?store\.sqlite", done.stdout)
    assert len(told) == 2, done.stdout  # the best and the worst of the last step
    for command in told:
        assert "tiny-s2-" in leyden(*shlex.split(command)[1:]).stdout
    assert f"leyden serve-model {run}" in done.stdout
    assert "leyden eval train.toml --checkpoint base --checkpoint best" in done.stdout
    longer = leyden("train", "train.toml", "--resume")
    assert longer.returncode == 2
    assert "no unfinished run named tiny" in longer.stderr


def test_held_out_tasks_must_not_be_trained_on(folder: Path, leyden: Leyden) -> None:
    (folder / "heldout.jsonl").write_text((folder / "train.jsonl").read_text())
    done = leyden("train", "train.toml")
    assert done.returncode == 2
    assert "held-out task 1 is also training task 1" in done.stderr


def test_a_server_that_is_too_old_is_refused_with_both_versions(
    folder: Path, leyden: Leyden, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEYDEN_KEY", "key")
    with elder_server() as url:
        done = leyden("train", "train.toml", f"--server={url}")
    assert done.returncode == 1
    assert f"the server at {url} is leyden 0.0.9, this is leyden {leyden_version}; they do not fit" in done.stderr


def test_an_unknown_key_is_an_error_that_names_the_known_ones(folder: Path, leyden: Leyden) -> None:
    done = leyden("train", "train.toml", "--trainer.stepz=2")
    assert done.returncode == 2
    assert "unknown key trainer.stepz; known here: backend, verl" in done.stderr


def test_rewards_that_cannot_be_used_stop_training_with_the_reason(folder: Path, leyden: Leyden) -> None:
    (folder / "reward.py").write_text("def score(task, result):\n    return float('nan')\n")
    done = leyden("train", "train.toml")
    assert done.returncode == 1
    assert "8 of 8 rollouts are incomplete" in done.stderr
    assert "a reward must be finite, got nan" in done.stderr
