import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from leyden.capture import install_capture, uninstall_capture
from leyden.runner.reference import load_function
from leyden.testing.capture_trial import CaptureTrial
from leyden.testing.fake_server import Reply
from leyden_trainer.testing import warm_tiny_model

FOLDER = Path(__file__).resolve().parent.parent
CACHE = FOLDER.parents[1] / ".cache" / "tiny-models"


def load(name: str, folder: Path = FOLDER) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"research_{name}", folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The example in a place of its own, with its tasks made."""
    for name in ("agent.py", "reward.py", "make_tasks.py", "train.toml"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    command = [sys.executable, str(tmp_path / "make_tasks.py"), "--companies", "8"]
    subprocess.run(command, check=True)
    return tmp_path


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPENAI_API_KEY", "leyden")
    install_capture(require_scope=True)
    yield
    uninstall_capture()


def test_no_company_of_a_held_out_question_is_asked_about_in_training() -> None:
    world = load("make_tasks").World(0, 48)
    asked = [{task["question"].split(" & Sons")[0] for task in world.tasks(heldout=side)} for side in (False, True)]
    train, heldout = ({question.rpartition(" ")[2] for question in questions} for questions in asked)
    assert (len(train), len(heldout)) == (36, 12)
    assert not train & heldout


def test_each_answer_is_found_by_reading_from_note_to_note() -> None:
    world = load("make_tasks").World(3, 48)
    notes = {note["title"]: note["text"] for note in world.notes()}
    for company in world.companies:
        assert notes[company.name].endswith(f"Founder: {company.founder}.")
        assert f"was born in {company.facts['town']}" in notes[company.founder]
        town = notes[company.facts["town"]]
        assert (company.facts["country"] in town, company.facts["river"] in town) == (True, True)


def test_the_same_seed_makes_the_same_world() -> None:
    make = load("make_tasks")
    assert make.World(5, 12).notes() == make.World(5, 12).notes()
    assert make.World(5, 12).notes() != make.World(6, 12).notes()


@pytest.mark.parametrize(
    ("said", "right"), [("ANSWER(Norvik)", True), (" answer(norvik)\n", True), ("Norvik", False), ("ANSWER(Os)", False)]
)
def test_the_score_wants_the_name_in_the_agreed_form(said: str, right: bool) -> None:
    assert load("reward").score({"answer": "Norvik"}, said) is right


def test_the_example_has_never_heard_of_leyden() -> None:
    for name in ("agent.py", "reward.py", "make_tasks.py"):
        assert "leyden" not in (FOLDER / name).read_text().lower()


def follow(body: dict[str, Any], headers: Mapping[str, str]) -> Reply:
    """A policy that does the research well: it goes where the last note points."""
    told = [message for message in body["messages"] if message["role"] == "tool"]
    if not body.get("tools"):
        river = next(str(m["content"]) for m in reversed(told) if "river" in str(m["content"]))
        return Reply(f"ANSWER({river.rpartition(' river ')[2].strip('.')})")
    if not told:
        company = body["messages"][1]["content"].partition("founder of ")[2].partition(" was born")[0]
        return Reply(tool_calls=[("search", {"query": company}), ("read", {"title": company})])
    text = str(told[-1]["content"])
    if "Founder: " in text:
        return Reply(tool_calls=[("read", {"title": text.partition("Founder: ")[2].strip(".")})])
    if "was born in " in text:
        return Reply(tool_calls=[("read", {"title": text.partition("born in ")[2].partition(" and")[0]})])
    return Reply(tool_calls=[("transfer_to_writer", {})])


async def test_a_good_researcher_reads_hands_off_and_is_rewarded(folder: Path, captured: None) -> None:
    solve = load_function(f"{folder / 'agent.py'}:solve")
    task = next(task for task in lines(folder / "train.jsonl") if task["question"].startswith("Which river"))
    async with CaptureTrial(folder, follow) as trial:
        told = await trial.captured(lambda _, url: solve(task), "river")
    assert (told.error, told.rollout.status, told.rollout.incomplete) == (None, "succeeded", ())
    assert load("reward", folder).score(task, told.result)
    structures = [call.structure for call in told.calls]
    assert [s.agent for s in structures if s] == [("researcher",)] * 4 + [("writer",)]
    assert [s.parent for s in structures if s] == [None] * 4 + [told.calls[3].id]
    uses = [[(use.kind, use.name) for use in call.tools] for call in told.calls]
    reading = [("function", "read")]
    assert [sorted(some) for some in uses] == [
        [*reading, ("function", "search")],
        reading,
        reading,
        [("handoff", "transfer_to_writer")],
        [],
    ]
    assert all(call.request is not None and call.request.path == "/v1/responses" for call in told.calls)


@pytest.mark.slow
def test_training_runs_whole_on_a_tiny_model(folder: Path) -> None:
    # Warmed up on another task, it ends what it says; an untrained one hardly ever does, and the SDK raises then.
    shutil.copytree(warm_tiny_model(CACHE), folder / "model")
    config = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    flags = {
        "model.device": "cpu",
        "sampling.max_tokens": 48,
        "trainer.steps": 1,
        "trainer.tasks_per_step": 2,
        "trainer.rollouts_per_task": 2,
        "trainer.evaluate_every": 1,
    }
    command = [sys.executable, "-m", "leyden", "train", "train.toml", *(f"--{key}={v}" for key, v in flags.items())]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    run = folder / "runs" / "research"
    assert json.loads((run / "summary.json").read_text())["rollouts"] == 4
    shown = [
        sys.executable,
        "-m",
        "leyden",
        "show",
        "research-s1-g0-r0",
        "--store",
        str(run / "store.sqlite"),
        "--json",
    ]
    parts = json.loads(subprocess.run(shown, capture_output=True, text=True, check=True).stdout)
    (call,) = parts["calls"]
    assert call["structure"]["agent"] == ["researcher"]
    assert call["attempts"][0]["choices"][0]["token_ids"]
    assert parts["credits"][0]["method"] == "dr_mas"
