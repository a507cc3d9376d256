"""A whole `leyden train` is ended in the middle of a step and goes on with --resume: full weights, LoRA, top layers."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from leyden.store import SqlStore
from leyden.types import Call, Rollout

AGENT = """
import os
import leyden, openai

client = openai.OpenAI()

def solve(task):
    rollout_id = leyden.current().rollout_id
    if rollout_id == open("stop-at").read() and not os.path.exists("go"):
        with open("reached", "w") as told:  # opens when the test does
            told.write(rollout_id)
        open("never").read()
    messages = [{"role": "user", "content": task["question"]}]
    return client.chat.completions.create(model="gpt", messages=messages, max_tokens=4).choices[0].message.content
"""
REWARD = "def score(task, result):\n    return len(result) % 3 == 0\n"
CONFIG = """
agent.concurrency = 2
[optimizer]
learning_rate = 1e-3
[trainer]
steps = 3
tasks_per_step = 2
rollouts_per_task = 4
evaluate_every = 3
"""


@dataclass(frozen=True)
class Kept:
    """What the store of a run has acknowledged."""

    rollouts: dict[str, Rollout]
    calls: dict[str, Call]
    credit_steps: dict[str, list[int]]
    """By rollout."""

    @property
    def finished(self) -> dict[str, Rollout]:
        return {name: rollout for name, rollout in self.rollouts.items() if rollout.finished}


def read(run: Path) -> Kept:
    async def all_of_it() -> Kept:
        store = SqlStore.open(run / "store.sqlite")
        rollouts = {rollout.id: rollout for rollout in (await store.rollouts(limit=1000)).rollouts}
        calls = {call.id: call for call in await store.calls(list(rollouts))}
        steps: dict[str, list[int]] = {}
        for credit in await store.credits(list(rollouts)):
            steps.setdefault(credit.rollout_id, []).append(credit.step)
        await store.close()
        return Kept(rollouts, calls, steps)

    return asyncio.run(all_of_it())


@pytest.fixture
def folder(write_folder: Callable[..., Path]) -> Path:
    folder = write_folder(AGENT, REWARD, CONFIG)
    for name in ("reached", "never"):
        os.mkfifo(folder / name)
    (folder / "stop-at").write_text("tiny-s2-g1-r3")  # the last of step 2
    return folder


def start(folder: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "leyden", "train", "train.toml", *flags]
    with (folder / "train.log").open("a") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, text=True, start_new_session=True)


def family(process_id: int) -> list[int]:
    """A process and all that it started, and these; Linux."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    found = [process_id]
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return found


def end(process: subprocess.Popen[str], how: str) -> None:
    if how == "stop":
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
        return
    for process_id in family(process.pid) if how == "kill all" else [process.pid]:
        os.kill(process_id, signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a run in /proc")
@pytest.mark.parametrize(
    ("how", "flags"),
    [("kill all", ["--model.lora_rank=4"]), ("kill trainer", ["--model.layers=1"]), ("stop", [])],
    ids=["killed with LoRA", "trainer killed with top layers", "stopped with all weights"],
)
def test_a_run_that_is_ended_in_mid_step_goes_on_where_it_was(folder: Path, how: str, flags: list[str]) -> None:
    run = folder / "runs" / "tiny"
    process = start(folder, *flags)
    assert (folder / "reached").read_text() == "tiny-s2-g1-r3"
    while not (run / "state" / "state-00000001.pt").exists():
        assert process.poll() is None
    before = read(run)
    end(process, how)
    if how == "stop":
        told = (folder / "train.log").read_text()
        assert not re.search("Traceback|never retrieved", told), told
    assert sum(rollout.step == 2 for rollout in before.finished.values()) >= 4
    (folder / "go").touch()
    assert start(folder, "--resume", *flags).wait() == 0, (folder / "train.log").read_text()

    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["rollouts"]) == (3, 24)
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2, 3, 3]
    after = read(run)
    assert len(after.rollouts) == 3 * 8 + 2 * 2
    assert all(rollout.status == "succeeded" for rollout in after.rollouts.values())
    assert {name: after.rollouts[name] for name in before.finished} == before.finished
    for call in before.calls.values():
        if call.rollout_id in before.finished:
            assert after.calls[call.id] == call
    trained = {name: rollout for name, rollout in after.rollouts.items() if rollout.mode == "train"}
    assert after.credit_steps == {name: [rollout.step] for name, rollout in trained.items()}
    assert trained["tiny-s2-g1-r3"].attempt == 1 + trained["tiny-s2-g1-r3"].released
    assert updates(run) == 3
    check_checkpoint(folder, run / "checkpoints" / "last", flags)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a run in /proc")
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(folder: Path) -> None:
    # What is sampled beside a call moves the last digits of its logprobs, and so does a prompt that is cached: in the
    # first call after an update none is.
    (folder / "stop-at").write_text("tiny-s3-g0-r0")
    one_at_a_time = "--agent.concurrency=1"
    assert start(folder, one_at_a_time, "--name=whole").wait() == 0, (folder / "train.log").read_text()
    killed = start(folder, one_at_a_time)
    assert (folder / "reached").read_text() == "tiny-s3-g0-r0"
    end(killed, "kill all")
    (folder / "go").touch()
    assert start(folder, one_at_a_time, "--resume").wait() == 0, (folder / "train.log").read_text()
    runs = [folder / "runs" / name for name in ("whole", "tiny")]
    answers = [sorted(answers_of(read(run))) for run in runs]
    assert answers[0] == answers[1]
    whole, resumed = (load_file(run / "checkpoints" / "last" / "model.safetensors") for run in runs)
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def answers_of(kept: Kept) -> list[tuple[str, tuple[int, ...], tuple[float, ...]]]:
    """Of each call: its rollout's id without the run, and what was sampled, with its logprobs."""
    return [
        (call.rollout_id.partition("-")[2], choice.token_ids, choice.logprobs)
        for call in kept.calls.values()
        for choice in call.attempts[-1].choices
    ]


def updates(run: Path) -> int:
    """How often the optimiser stepped, as its own newest state says."""
    newest = max((run / "state").glob("state-*.pt"))
    optimizer = torch.load(newest, weights_only=True)["learner"]["optimizer"]
    (steps,) = {int(state["step"]) for state in optimizer["state"].values()}
    return steps


def check_checkpoint(folder: Path, checkpoint: Path, flags: list[str]) -> None:
    """transformers loads it; only what was to be trained has changed."""
    AutoTokenizer.from_pretrained(checkpoint)
    old = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    new = AutoModelForCausalLM.from_pretrained(checkpoint).state_dict()
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert any(".layers.1." in name for name in changed)
    if "--model.layers=1" in flags:
        assert not any(".layers.0." in name for name in changed)
    if "--model.lora_rank=4" in flags:
        assert (checkpoint / "adapter" / "adapter_model.safetensors").is_file()
        assert not any("embed" in name or "norm" in name for name in changed)
