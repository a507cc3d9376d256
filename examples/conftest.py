"""The `leyden` command as a user types it in an example's folder, without a key of a provider at hand."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


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
