"""`leyden train` with a warm start, reported apart from RL and found again by a run that goes on."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

Leyden = Callable[..., subprocess.CompletedProcess[str]]
AGENT = """
from langchain_openai import ChatOpenAI

llm = ChatOpenAI(model="gpt-4o-mini", max_tokens=6)

def solve(task):
    return llm.invoke(task["question"]).text
"""
REWARD = "def score(task, result):\n    return result.startswith('answer')\n"
CONFIG = """
[warm_start]
demonstrations = "demos.jsonl"
epochs = 5
learning_rate = 3e-3
[optimizer]
learning_rate = 1e-3
[trainer]
steps = 1
tasks_per_step = 2
rollouts_per_task = 4
"""


@pytest.fixture
def folder(write_folder: Callable[..., Path]) -> Path:
    folder = write_folder(AGENT, REWARD, CONFIG)
    said = [{"role": "user", "content": "how hot is it in Oslo"}, {"role": "assistant", "content": "answer 57"}]
    (folder / "demos.jsonl").write_text((json.dumps({"messages": said}) + "\n") * 16)
    return folder


def test_a_run_that_ended_after_its_warm_start_goes_on_from_it(folder: Path, leyden: Leyden) -> None:
    flags = ["--model.lora_rank=64", "--loss.kl=0.1"]
    done = leyden("train", "train.toml", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warm start: 10 updates, loss" in done.stdout
    assert "gain by RL" in done.stdout
    run = folder / "runs" / "tiny"
    first = json.loads((run / "summary.json").read_text())
    assert (first["eval_base"], first["eval_before"]) == (0.0, 1.0)
    weights = load_file(run / "checkpoints" / "last" / "model.safetensors")

    (run / "summary.json").unlink()
    shutil.rmtree(run / "state")
    done = leyden("train", "train.toml", "--resume", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warm start: found from before" in done.stdout
    second = json.loads((run / "summary.json").read_text())
    assert [second[name] for name in ("eval_base", "eval_before", "rollouts")] == [0.0, 1.0, first["rollouts"]]
    again = load_file(run / "checkpoints" / "last" / "model.safetensors")
    assert all(torch.allclose(tensor, again[name], atol=1e-5) for name, tensor in weights.items())


def test_a_bad_demonstration_is_refused_before_anything_starts(folder: Path, leyden: Leyden) -> None:
    (folder / "demos.jsonl").write_text('{"messages": "hello"}\n')
    done = leyden("train", "train.toml")
    assert done.returncode == 2
    assert "demos.jsonl, line 1: messages: " in done.stderr
