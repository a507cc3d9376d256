"""A user's folder with an agent, a reward, tasks and a tiny untrained model, and the commands typed in it."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from leyden_trainer.testing import make_tiny_model

WriteFolder = Callable[..., Path]
"""(agent, reward, own part of the config, *, train, heldout: cities that are asked about) → the folder."""
Leyden = Callable[..., subprocess.CompletedProcess[str]]
"""(*arguments) → what came of it."""
BASE = """
name = "tiny"
model.path = "model"
model.device = "cpu"
agent.function = "agent.py:solve"
reward.function = "reward.py:score"
tasks.train = "train.jsonl"
tasks.heldout = "heldout.jsonl"
"""


@pytest.fixture
def base_config() -> str:
    """What a run of the folder needs; a test adds to it."""
    return BASE


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteFolder:
    def write(
        agent: str,
        reward: str,
        config: str = "",
        *,
        train: Sequence[str] = ("Oslo", "Rome", "Paris"),
        heldout: Sequence[str] = ("Tunis", "Dakar"),
    ) -> Path:
        make_tiny_model(tmp_path / "model")
        for name, text in (("agent.py", agent), ("reward.py", reward), ("train.toml", BASE + config)):
            (tmp_path / name).write_text(text)
        for name, cities in (("train", train), ("heldout", heldout)):
            lines = [json.dumps({"question": f"how hot is it in {city}"}) for city in cities]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        return tmp_path

    return write


@pytest.fixture
def leyden(tmp_path: Path) -> Leyden:
    def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "leyden", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return typed
