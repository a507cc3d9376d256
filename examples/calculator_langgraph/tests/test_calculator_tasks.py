import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parent.parent


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"calculator_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_held_out_numbers_are_trained_on() -> None:
    make = load("make_tasks")

    def numbers(task: dict) -> tuple[str, ...]:
        return tuple(sorted(re.findall(r"\d+", task["question"])))

    train = {numbers(task) for task in itertools.islice(make.tasks(0, heldout=False), 3000)}
    heldout = {numbers(task) for task in itertools.islice(make.tasks(0, heldout=True), 3000)}
    assert not train & heldout


def test_a_template_of_each_kind_is_held_out_altogether() -> None:
    make = load("make_tasks")
    questions = " ".join(task["question"] for task in itertools.islice(make.tasks(0, heldout=False), 2000))
    assert "bags" in questions
    assert not re.search(r"runs \d+ km|A shop sold|flew away", questions)


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        command = [sys.executable, str(FOLDER / "make_tasks.py"), "--folder", str(tmp_path / folder), "--train", "40"]
        subprocess.run(command, check=True)
    first = (tmp_path / "a" / "train.jsonl").read_text()
    assert first == (tmp_path / "b" / "train.jsonl").read_text()
    assert len({json.loads(line)["question"] for line in first.splitlines()}) == 40


@pytest.mark.parametrize(
    ("said", "right"), [("ANSWER(55)", True), (" ANSWER(55)\n", True), ("55", False), ("ANSWER(5)", False)]
)
def test_the_score_wants_the_number_in_the_agreed_form(said: str, right: bool) -> None:
    assert load("reward").score({"answer": 55}, said) is right


def test_the_agent_has_never_heard_of_leyden() -> None:
    assert "leyden" not in (FOLDER / "agent.py").read_text().lower()
    assert "leyden" not in (FOLDER / "reward.py").read_text().lower()
