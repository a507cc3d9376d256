"""What a run would stumble over, for `leyden doctor --config`: looked at before anything is started or loaded."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from leyden.cli.doctor import Finding
from leyden.errors import BadInput
from leyden.keys import STAND_IN_KEY
from leyden.tasks import read_tasks
from leyden_trainer.config import TrainConfig, load_config
from leyden_trainer.tasks import check_apart

__all__ = ["findings"]

IMPORT = "import sys; from leyden.runner.reference import load_function; load_function(sys.argv[1])"
IMPORT_S = 120


def findings(file: Path, *, import_s: float = IMPORT_S) -> list[Finding]:
    """One for each thing that a run of this configuration needs; an import may take `import_s`."""
    try:
        config = load_config(file)
    except BadInput as error:
        return [Finding(False, f"configuration {file}", str(error))]
    found = [Finding(True, f"configuration {file}"), _tasks(config), *_model(config), _output(config)]
    interpreter = config.agent.python or sys.executable
    if not Path(interpreter).is_file():
        advice = "name the Python of the agent's environment, such as /path/to/.venv/bin/python"
        return [*found, Finding(False, f"agent.python {interpreter} is not there", advice)]
    named = {"agent": config.agent.function, "reward": config.reward.function}
    return [*found, *(_imported(role, function, interpreter, import_s) for role, function in named.items())]


def _tasks(config: TrainConfig) -> Finding:
    try:
        train, heldout = read_tasks(config.tasks.train), read_tasks(config.tasks.heldout)
        check_apart(train, heldout)
    except BadInput as error:
        return Finding(False, "tasks", str(error))
    return Finding(True, f"{len(train)} training tasks, {len(heldout)} held-out tasks")


def _model(config: TrainConfig) -> list[Finding]:
    path = config.model.path
    folder = Path(path)
    if path.startswith("pypi:") or (folder.suffix == ".gguf" and folder.is_file()):
        return [Finding(True, f"model {path}"), *_backend(config)]
    if not (folder / "config.json").is_file():
        advice = 'name a folder that transformers loads (it has a config.json), a .gguf file, or "pypi:NAME==VERSION"'
        return [Finding(False, f"there is no model at {path}", advice), *_backend(config)]
    advice = "a base model cannot hold a conversation: take its instruct version, or put a chat_template.jinja there"
    return [Finding(_has_template(folder), f"model {path} and its chat template", advice), *_backend(config)]


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    file = folder / "tokenizer_config.json"
    return file.is_file() and "chat_template" in json.loads(file.read_text(encoding="utf-8"))


def _backend(config: TrainConfig) -> list[Finding]:
    if config.trainer.backend == "local":
        return []
    there = importlib.util.find_spec("verl") is not None
    return [Finding(there, 'trainer.backend = "verl"', "pip install leyden-trainer[verl] in this environment")]


def _output(config: TrainConfig) -> Finding:
    existing = next(place for place in (config.output, *config.output.parents) if place.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    return Finding(writable, f"runs go to {config.output}", f"{existing} cannot be written to; set `output`")


def _imported(role: str, function: str, interpreter: str, limit_s: float) -> Finding:
    """Imported as the runner will: in the agent's environment, in a process of its own."""
    advice = "install what it imports in the environment of agent.python, or name that environment's Python there"
    command, environment = [interpreter, "-c", IMPORT, function], {"OPENAI_API_KEY": STAND_IN_KEY, **os.environ}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return Finding(
            False, f"{role} {function}", f"importing it takes longer than {limit_s:g} s: start nothing there"
        )
    if done.returncode == 0:
        return Finding(True, f"{role} {function}")
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if "No module named 'leyden'" in last:
        return Finding(
            False, f"{interpreter} has no leyden", "pip install leyden and the adapter of its framework there"
        )
    return Finding(False, f"{role} {function}: {last}", advice)
