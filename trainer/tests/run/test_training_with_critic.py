"""`leyden train` with PPO: a critic's head on a warmed-up tiny model, and a rule that rewards calls."""

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from leyden_trainer.testing import lookup_tasks

Leyden = Callable[..., subprocess.CompletedProcess[str]]
AGENT = """
from langchain_openai import ChatOpenAI

llm = ChatOpenAI(model="gpt-4o-mini", max_tokens=12)

def solve(task):
    return llm.invoke([("system", "use tools"), ("user", task["question"])]).text
"""
CONFIG = """
agent.concurrency = 48
[reward.rules]
length_stop = -0.5
named_a_tool = {function = "reward.py:named_a_tool", weight = 0.1}
[credit]
method = "ppo"
[critic]
learning_rate = 3e-3
[optimizer]
learning_rate = 5e-4
warmup_steps = 0
[trainer]
steps = 8
tasks_per_step = 12
rollouts_per_task = 4
evaluate_every = 8
"""
REWARD = """
def score(task, result):
    return result == task["answer"]

def named_a_tool(call):
    return call.answer.choices[0].message["content"].startswith("call ")
"""


@pytest.fixture
def folder(tmp_path: Path, warm_folder: Path, base_config: str) -> Path:
    (tmp_path / "model").symlink_to(warm_folder)
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "train.toml").write_text(base_config + CONFIG)
    for name, count in (("train", 64), ("heldout", 12)):
        tasks = itertools.islice(lookup_tasks(3, heldout=name == "heldout"), count)
        lines = {t.question: {"question": t.question, "answer": f"call {t.tool} {t.city}"} for t in tasks}
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines.values())))
    return tmp_path


@pytest.mark.slow
def test_ppo_learns_and_its_critic_too(folder: Path, leyden: Leyden) -> None:
    done = leyden("train", "train.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    run = folder / "runs" / "tiny"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["eval_before"] < 0.6
    assert summary["eval_after"] > 0.8
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [step["value_loss"] for step in steps if "value_loss" in step]
    assert len(losses) == 8
    assert sum(losses[-3:]) / 3 < 0.75 * losses[0]
    assert all("explained_variance" in step for step in steps if "value_loss" in step)
    shown = ("show", "tiny-s8-g0-r0", "--store", str(run / "store.sqlite"))
    parts = json.loads(leyden(*shown, "--json").stdout)
    (given,) = [reward for reward in parts["rewards"] if reward["source"] == "rule"]
    assert (given["name"], given["value"], given["call_id"]) == ("named_a_tool", 0.1, parts["calls"][0]["id"])
    assert "the critic's value" in parts["credits"][0]["reason"]
    assert "reward 0.1 (named_a_tool)" in leyden(*shown).stdout
