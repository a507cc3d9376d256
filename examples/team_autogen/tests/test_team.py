import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from leyden.testing.fake_server import FakeServer, Reply
from leyden_trainer.testing import make_tiny_model

FOLDER = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"team_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the example with a few tasks."""
    for path in FOLDER.glob("*.*"):
        shutil.copy(path, tmp_path)
    command = [sys.executable, "make_tasks.py", "--folder", ".", "--train", "4", "--heldout", "2"]
    subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def test_no_held_out_numbers_are_trained_on() -> None:
    make = load("make_tasks")

    def numbers(task: dict) -> tuple[str, ...]:
        return tuple(sorted(re.findall(r"\d+", task["question"])))

    train = {numbers(task) for task in itertools.islice(make.tasks(0, heldout=False), 3000)}
    heldout = {numbers(task) for task in itertools.islice(make.tasks(0, heldout=True), 3000)}
    assert not train & heldout


def test_the_same_seed_gives_the_same_tasks_and_their_answers_are_right() -> None:
    make = load("make_tasks")
    tasks = [list(itertools.islice(make.tasks(0, heldout=False), 200)) for _ in range(2)]
    assert tasks[0] == tasks[1]
    shop = next(task for task in tasks[0] if task["question"].startswith("A shop"))
    boxes, pens, sold = map(int, re.findall(r"\d+", shop["question"]))
    assert shop["answer"] == boxes * pens - sold


@pytest.mark.parametrize(
    ("said", "right"),
    [("so ANSWER(55)", True), ("ANSWER(5) no, ANSWER(55)", True), ("55", False), ("ANSWER(5)", False), ("", False)],
)
def test_the_score_wants_the_right_number_in_the_last_answer(said: str, right: bool) -> None:
    assert load("reward").score({"answer": 55}, said) is right


def test_the_agent_has_never_heard_of_leyden() -> None:
    assert "leyden" not in (FOLDER / "agent.py").read_text().lower()
    assert "leyden" not in (FOLDER / "reward.py").read_text().lower()


def test_the_team_calculates_answers_and_reviews_and_is_shown_as_a_tree(
    folder: Path, leyden: Callable[..., str]
) -> None:
    task = {"id": "one", "question": "A shop has 12 boxes with 5 pens each. How many pens?", "answer": 60}
    (folder / "one.jsonl").write_text(json.dumps(task))

    def policy(body: dict[str, Any], headers: Any) -> Reply:
        if "calculator" not in body["messages"][0]["content"]:
            return Reply("APPROVED")
        if body["messages"][-1]["role"] == "tool":
            return Reply(f"It is ANSWER({body['messages'][-1]['content']}).")
        return Reply(tool_calls=[("calculate", {"left": 12, "operation": "*", "right": 5})])

    with FakeServer(policy) as server:
        model = ("--model-url", server.url, "--model", "fake")
        told = leyden(folder, "run", "agent.py:solve", "--tasks", "one.jsonl", "--reward", "reward.py:score", *model)
    assert "mean reward 1.000 over 1 complete rollouts" in told
    (rollout,) = json.loads(leyden(folder, "rollouts", "--json"))["rollouts"]
    assert rollout["result"] == "It is ANSWER(60)."
    shown = leyden(folder, "show", rollout["id"])
    lines = [line.strip("│├└─ ") for line in shown.splitlines()]
    wanted = (
        "solver",
        '→ calculate({"left": 12, "operation": "*", "right": 5})  (tool_calls)',
        'tool calculate({"left": 12, "operation": "*", "right": 5}) = 60',
        "→ It is ANSWER(60).  (stop)",
        "reviewer",
        "→ APPROVED  (stop)",
    )
    assert [line for line in lines if line in wanted] == list(wanted)


@pytest.mark.slow
def test_it_trains_end_to_end_on_a_tiny_model(folder: Path, leyden: Callable[..., str]) -> None:
    model = make_tiny_model(folder / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    flags = ("--trainer.steps=1", "--trainer.tasks_per_step=1", "--trainer.rollouts_per_task=2")
    leyden(folder, "train", "train.toml", *flags, "--model.device=cpu", "--sampling.max_tokens=8")
    run = folder / "runs" / "team"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["rollouts"]) == (1, 2)
    store = ("--store", str(run / "store.sqlite"))
    parts = json.loads(leyden(folder, "show", "team-s1-g0-r0", *store, "--json"))
    assert {tuple(call["structure"]["agent"]) for call in parts["calls"]} == {("solver",), ("reviewer",)}
    assert {credit["method"] for credit in parts["credits"]} == {"dr_mas"}
    assert len(parts["credits"]) == len(parts["calls"])
    assert parts["rollout"]["incomplete"] == []
