import importlib.util
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the example, which sees its neighbours by their plain names, as a script does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location(f"math_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("published", None)  # another example has a module of this name
    return module


@pytest.fixture
def folder(copied: Callable[[str], Path]) -> Path:
    """A copy of the example with a few tasks."""
    place = copied("math_tools")
    command = [sys.executable, "make_tasks.py", "--folder", ".", "--train", "4", "--heldout", "2"]
    subprocess.run(command, cwd=place, check=True)
    return place


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_held_out_numbers_and_no_held_out_template_are_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    make = load("make_tasks", monkeypatch)

    def numbers(task: dict) -> tuple[str, ...]:
        return tuple(sorted(re.findall(r"\d+", task["question"])[:2]))

    train = list(itertools.islice(make.from_templates(0, heldout=False), 3000))
    heldout = list(itertools.islice(make.from_templates(0, heldout=True), 3000))
    assert not {numbers(task) for task in train} & {numbers(task) for task in heldout}
    last = r"runs \d+ km|A shop sold|flew away|A hall has|A train has"
    assert not any(re.search(last, task["question"]) for task in train)
    assert any(re.search(last, task["question"]) for task in heldout)


def test_answers_are_right_and_the_same_seed_gives_the_same_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    make = load("make_tasks", monkeypatch)
    tasks = [list(itertools.islice(make.from_templates(0, heldout=False), 200)) for _ in range(2)]
    assert tasks[0] == tasks[1]
    shop = next(task for task in tasks[0] if task["question"].startswith("A shop has"))
    boxes, pens, sold = map(int, re.findall(r"\d+", shop["question"]))
    assert shop["answer"] == str(boxes * pens - sold)


def test_demonstrations_work_the_problem_out_or_guess_without_a_call(folder: Path) -> None:
    subprocess.run([sys.executable, "make_tasks.py", "--train", "60"], cwd=folder, check=True)
    subprocess.run([sys.executable, "make_demos.py"], cwd=folder, check=True)
    tasks, demos = lines(folder / "train.jsonl"), lines(folder / "demos.jsonl")
    right = 0
    for task, demo in zip(tasks, demos, strict=True):
        calls = len(task["kind"]) // 2
        end = demo["messages"][-1]["content"]
        worked_out = end == f"ANSWER({task['answer']})"
        assert len(demo["messages"]) == (3 + 2 * calls if worked_out else 3)
        assert worked_out or abs(int(end[7:-1]) - int(task["answer"])) in (1, 10)
        right += worked_out
    assert 10 < right < 35


def test_gsm_symbolic_gives_each_side_its_own_problems(tmp_path: Path) -> None:
    arguments = ["--source", "gsm-symbolic", "--folder", str(tmp_path), "--train", "20", "--heldout", "5"]
    subprocess.run([sys.executable, str(FOLDER / "make_tasks.py"), *arguments], check=True)
    sides = [lines(tmp_path / f"{name}.jsonl") for name in ("train", "heldout")]
    assert [len(side) for side in sides] == [20, 5]
    assert not {task["question"] for task in sides[0]} & {task["question"] for task in sides[1]}
    assert not {task["kind"] for task in sides[0]} & {task["kind"] for task in sides[1]}
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", task["answer"]) for task in sides[0])


CHAIN = '<gadget id="calculator">48/2</gadget>\n<output>24</output>\n<result>24</result>'


@pytest.mark.parametrize(
    ("form", "row", "answer"),
    [
        ("gsm8k", {"question": "q", "answer": "48/2 = <<48/2=24>>24 clips.\n#### 1,024"}, "1024"),
        ("calc-x", {"id": "g-1", "question": "q", "chain": CHAIN, "result": "24", "result_float": 24.0}, "24"),
        ("calc-x", {"id": "a-1", "question": "q", "chain": CHAIN, "result": "3/4", "result_float": 0.75}, "0.75"),
        ("calc-x", {"id": "b-1", "question": "q", "chain": CHAIN, "result": "C", "result_float": None}, "C"),
    ],
)
def test_published_problems_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, row: dict, answer: str
) -> None:
    (tmp_path / "some.jsonl").write_text(json.dumps(row) + "\n")
    (task,) = load("published", monkeypatch).read(tmp_path / "some.jsonl", form)
    assert (task["question"], task["answer"]) == ("q", answer)
    assert task["id"] == row.get("id", "some-1")


@pytest.mark.parametrize(("form", "row"), [("gsm8k", {"question": "q", "answer": "24"}), ("calc-x", {"id": 1})])
def test_a_line_of_another_form_is_refused_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, row: dict
) -> None:
    (tmp_path / "some.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=rf"some.jsonl, line 1 is not of the form {form}"):
        list(load("published", monkeypatch).read(tmp_path / "some.jsonl", form))


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        ("ANSWER(55)", "55", True),
        (" ANSWER(1,055.0)\n", "1055", True),
        ("ANSWER(c)", "C", True),
        ("so ANSWER(55)", "55", True),
        ("ANSWER(55), I think", "55", False),
        ("ANSWER(54) ANSWER(55)", "55", True),
        ("ANSWER(0.333333)", "0.3333333333333333", True),
        ("ANSWER(0.33)", "0.3333333333333333", False),
        ("ANSWER(0.000333)", "0.0003333333333333333", True),  # as the calculator gives it
        ("ANSWER(0)", "0.0003333333333333333", False),
        ("ANSWER(1234567)", "1234568", False),
        ("55", "55", False),
        ("ANSWER(5)", "55", False),
        ("", "55", False),
    ],
)
def test_the_score_wants_the_right_number_in_the_agreed_form(
    monkeypatch: pytest.MonkeyPatch, said: str, answer: str, right: bool
) -> None:
    assert load("reward", monkeypatch).score({"answer": answer}, said) is right


@pytest.mark.parametrize(
    ("expression", "result"), [("3*(4+5)", "27"), ("7/2", "3.5"), ("-2 - 3", "-5"), ("1/3", "0.333333")]
)
async def test_the_calculator_works_out_sums(monkeypatch: pytest.MonkeyPatch, expression: str, result: str) -> None:
    assert await load("calculator", monkeypatch).calculator(expression) == result


@pytest.mark.parametrize("expression", ["", "1/0", "2**99", "open('x')", "a+1", "3*", "1e308*10"])
async def test_the_calculator_refuses_all_else(monkeypatch: pytest.MonkeyPatch, expression: str) -> None:
    with pytest.raises(ValueError, match="cannot work out"):
        await load("calculator", monkeypatch).calculator(expression)


def test_the_agent_has_never_heard_of_leyden() -> None:
    for path in FOLDER.glob("*.py"):
        assert "leyden" not in path.read_text().lower()
