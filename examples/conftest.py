"""Copies of examples to try things in, and the `leyden` command as a user types it there, without a provider's key."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    """(an example's name) → a copy of its programs and settings, beside the chat template that examples share."""

    def copy(name: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        shutil.copy(EXAMPLES / "chatml_tools.jinja", tmp_path)
        for path in [*(EXAMPLES / name).glob("*.py"), *(EXAMPLES / name).glob("*.toml")]:
            shutil.copy(path, place)
        return place

    return copy


@pytest.fixture
def leyden() -> Callable[..., str]:
    """(folder, *arguments) → what it printed."""

    def typed(folder: Path, *arguments: str) -> str:
        environment = {**os.environ, "COLUMNS": "300"}
        environment.pop("OPENAI_API_KEY", None)
        command = [sys.executable, "-m", "leyden", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return typed
