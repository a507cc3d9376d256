"""`leyden.train(...)` as a notebook uses it: functions and lists as they are, a loop that runs already, data frames."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from openai import OpenAI

import leyden
from leyden.errors import BadConfig
from leyden_trainer.testing import make_tiny_model

STEPS = {"steps": 2, "tasks_per_step": 2, "rollouts_per_task": 4, "evaluate_every": 2}
TASKS = [{"question": f"how hot is it in {city}"} for city in ("Oslo", "Rome", "Paris", "Lima", "Cairo")]
NOTEBOOK = """
import asyncio, leyden

def solve(task):
    from openai import OpenAI
    answer = OpenAI(api_key="none").chat.completions.create(
        model="gpt-4o-mini", max_tokens=4, messages=[{"role": "user", "content": task["question"]}]
    )
    return answer.choices[0].message.content

LONG = 3

def score(task, result):
    return len(result) > LONG

async def cell():
    return leyden.train(solve, TASKS, score, model={"path": "model", "device": "cpu"}, trainer=STEPS, name="cell")

run = asyncio.run(cell())
assert list(run.curves.index) == [0, 1, 2], run.curves
assert len(run.rollouts().query("mode == 'train'")) == 16
"""


def solve(task):
    answer = OpenAI(api_key="none").chat.completions.create(
        model="gpt-4o-mini", max_tokens=4, messages=[{"role": "user", "content": task["question"]}]
    )
    return answer.choices[0].message.content


def score(task, result):
    return len(result) % 3 == 0


def test_a_run_is_trained_looked_at_evaluated_and_served(tmp_path: Path) -> None:
    model = {"path": str(make_tiny_model(tmp_path / "model")), "device": "cpu"}
    run = leyden.train(solve, TASKS, score, model=model, output=tmp_path / "runs", trainer=STEPS)
    assert repr(run).startswith(f"Run('{tmp_path}/runs/run', held-out before ")
    assert run.summary["steps"] == 2
    assert run.curves.loc[2, ["reward", "heldout"]].notna().all()
    rollouts = run.rollouts()
    trained = rollouts[rollouts["mode"] == "train"]
    assert len(trained) == 16
    assert run.curves.loc[1, "reward"] == pytest.approx(trained[trained["step"] == 1]["reward"].mean())
    assert len(run.calls(trained.index[0])) == trained.iloc[0]["calls"] == 1
    shown = run.show(trained.index[0])
    assert shown.calls == run.calls(trained.index[0])
    again = run.credit(trained.index[0], "broadcast").table
    assert again["broadcast"].tolist() == pytest.approx([credit.advantage for credit in shown.credits])
    assert run.export(tmp_path / "rollouts.jsonl") == len(rollouts)
    held_out = set(rollouts[rollouts["mode"] == "eval"]["task"].map(lambda task: task["question"]))
    assert len(held_out) == 1
    assert held_out.isdisjoint(trained["task"].map(lambda task: task["question"]))
    report = run.evaluate("base", "last", tasks=TASKS[:2], tries=2)
    assert [one.num_tries for one in report.found] == [2, 2]
    with run.serving("last") as url:
        answer = OpenAI(base_url=url, api_key="any").chat.completions.create(
            model="gpt-4o-mini", max_tokens=2, messages=[{"role": "user", "content": "hello"}]
        )
    assert answer.choices[0].message.content is not None


def test_a_notebooks_own_functions_train_while_its_loop_runs(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "model")
    code = f"TASKS = {TASKS!r}\nSTEPS = {STEPS!r}\n{NOTEBOOK}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_function_that_cannot_be_copied_is_refused_with_the_way_out(tmp_path: Path) -> None:
    lock = threading.Lock()
    with pytest.raises(BadConfig, match=r"cannot pickle .* Write it to one \(in a notebook: %%writefile agent.py\)"):
        leyden.train(lambda task: lock, TASKS, score, model="none", output=tmp_path)


def test_one_task_cannot_be_parted(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="1 task cannot be parted into training and held-out tasks; give heldout="):
        leyden.train(solve, TASKS[:1], score, model="none", output=tmp_path)
