import importlib.util
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent
NEIGHBOURS = ("passages", "published", "world")


@pytest.fixture
def folder(copied: Callable[[str], Path]) -> Path:
    """A copy of the example with a few tasks."""
    place = copied("multihop_qa")
    command = [sys.executable, "make_tasks.py", "--train", "40", "--heldout", "2"]
    subprocess.run(command, cwd=place, check=True)
    return place


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Loads a module of the example, which sees its neighbours by their plain names, as a script does."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def loaded(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"multihop_{name}", FOLDER / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    yield loaded
    for name in NEIGHBOURS:  # another example has modules of these names
        sys.modules.pop(name, None)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_no_name_and_no_wording_of_a_held_out_question_is_trained_on(load: Any) -> None:
    world = load("world")
    train, heldout = world.halves(0)

    def named(countries: list[Any]) -> set[str]:
        return {name for c in countries for name in (c.name, *c.facts.values(), *(value for _, value in c.bridges))}

    assert len(train) + len(heldout) > 200
    assert not named(train) & named(heldout)
    asked = [question.text for question in world.questions(train, heldout=False)]
    assert not any("ruled from" in text or "the land around" in text or "sole land" in text for text in asked)


def test_what_real_countries_share_they_share_under_the_new_name(load: Any) -> None:
    train, heldout = load("world").halves(0)
    currencies = [country.facts["currency"] for country in (*train, *heldout)]
    assert max(map(currencies.count, currencies)) > 10  # the euro
    assert len(set(currencies)) > 60


def test_each_question_is_answered_by_two_searches_of_which_neither_is_enough(folder: Path) -> None:
    program = """
import json
from passages import find
for line in open("train.jsonl"):
    task = json.loads(line)
    first, second = ("\\n".join(find(query)) for query in task["searches"])
    assert task["country"] in first and task["answer"] not in first.split(), (task, first)
    assert task["answer"] in second, (task, second)
"""
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)


def test_demonstrations_search_read_and_answer_some_too_soon(folder: Path) -> None:
    subprocess.run([sys.executable, "make_demos.py"], cwd=folder, check=True)
    tasks, demos = lines(folder / "train.jsonl"), lines(folder / "demos.jsonl")
    assert len(demos) == len(tasks)
    ends = [(len(demo["messages"]), demo["messages"][-1]["content"]) for demo in demos]
    right = [f"ANSWER({task['answer']})" for task in tasks]
    lazy = [f"ANSWER({task['country']})" for task in tasks]
    assert all(end in ((7, a), (5, b)) for end, a, b in zip(ends, right, lazy, strict=True))
    assert 8 < sum(length == 5 for length, _ in ends) < 32


MUSIQUE = {
    "id": "2hop__1_2",
    "paragraphs": [
        {"idx": 0, "title": "Green", "paragraph_text": "Green is an album by Steve.", "is_supporting": True},
        {"idx": 1, "title": "Steve", "paragraph_text": "Steve married Miquette.", "is_supporting": True},
    ],
    "question": "Who married the maker of Green?",
    "question_decomposition": [{"id": 1, "question": "Green >> performer", "answer": "Steve"}],
    "answer": "Miquette",
    "answer_aliases": ["Miquette Giraudy"],
    "answerable": True,
}
HOTPOT = {
    "_id": "5a7",
    "answer": "yes",
    "question": "Were both American?",
    "supporting_facts": [["Scott", 0]],
    "context": [["Scott", ["Scott is American.", " He directs."]], ["Ed", ["Ed was American."]]],
    "type": "comparison",
    "level": "hard",
}


def test_published_questions_are_read_with_their_paragraphs(load: Any, tmp_path: Path) -> None:
    published = load("published")
    (tmp_path / "musique.jsonl").write_text(json.dumps(MUSIQUE) + "\n" + json.dumps({**MUSIQUE, "id": "b"}))
    tasks, paragraphs = published.read(tmp_path / "musique.jsonl", "musique", 10, random.Random(0))
    assert sorted(task["id"] for task in tasks) == ["2hop__1_2", "b"]
    assert (tasks[0]["answer"], tasks[0]["aliases"]) == ("Miquette", ["Miquette Giraudy"])
    assert paragraphs == ["Green: Green is an album by Steve.", "Steve: Steve married Miquette."]
    assert len(published.read(tmp_path / "musique.jsonl", "musique", 1, random.Random(0))[0]) == 1


HUB_CONTEXT = {"title": ["Scott", "Ed"], "sentences": [["Scott is American.", " He directs."], ["Ed was American."]]}
HUB = {"id": "5a7", **{k: v for k, v in HOTPOT.items() if k != "_id"}, "context": HUB_CONTEXT}


@pytest.mark.parametrize(
    "text",
    [json.dumps(HOTPOT), json.dumps([HOTPOT]), json.dumps(HUB)],
    ids=["a line", "the authors' array", "the hub's line"],
)
def test_hotpotqa_is_read_in_each_of_its_forms(load: Any, tmp_path: Path, text: str) -> None:
    (tmp_path / "hotpot.json").write_text(text)
    tasks, paragraphs = load("published").read(tmp_path / "hotpot.json", "hotpotqa", 10, random.Random(0))
    assert tasks == [{"id": "5a7", "question": "Were both American?", "answer": "yes", "aliases": []}]
    assert paragraphs == ["Scott: Scott is American. He directs.", "Ed: Ed was American."]


def test_a_row_of_another_form_is_refused_by_its_number(load: Any, tmp_path: Path) -> None:
    for other in (HOTPOT, {**MUSIQUE, "answerable": False}):
        (tmp_path / "some.jsonl").write_text(json.dumps(MUSIQUE) + "\n" + json.dumps(other))
        with pytest.raises(ValueError, match=r"some.jsonl, row 2 is not of the form musique"):
            load("published").read(tmp_path / "some.jsonl", "musique", 10, random.Random(0))


@pytest.mark.parametrize(
    ("said", "f1", "exact", "score"),
    [
        ("ANSWER(The Beatles)", 1.0, True, 1.0),
        ("ANSWER(beatles!)", 1.0, True, 1.0),
        ("ANSWER(the Fab Four)", 1.0, True, 1.0),  # an alias
        ("ANSWER(Beatles of Liverpool)", 0.5, False, 0.55),  # precision 1/3, recall 1
        ("Beatles", 1.0, True, 0.9),
        ("ANSWER(Kinks)", 0.0, False, 0.1),
        ("", 0.0, False, 0.0),
    ],
)
def test_f1_and_exact_match_are_those_of_musique(load: Any, said: str, f1: float, exact: bool, score: float) -> None:
    reward, task = load("reward"), {"answer": "Beatles", "aliases": ["Fab Four"]}
    assert reward.f1(task, said) == pytest.approx(f1)
    assert reward.exact_match(task, said) is exact
    assert reward.score(task, said) == pytest.approx(score)


def test_the_example_has_never_heard_of_leyden() -> None:
    for path in FOLDER.glob("*.py"):
        assert "leyden" not in path.read_text().lower()
