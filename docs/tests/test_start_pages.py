"""The start pages as they are typed: every command but pip's, with two steps of a tiny model for the page's training.

`make dist` does the same from the built packages in an environment of its own.
"""

import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from leyden_trainer.testing import warm_tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
START: dict[str, Any] = runpy.run_path(str(REPOSITORY / "scripts" / "fresh_start.py"))


@pytest.mark.parametrize("name", START["PAGES"])
def test_the_commands_of_a_start_page_end_in_a_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = START["Page"].read(name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    shutil.copytree(warm_tiny_model(REPOSITORY / ".cache" / "tiny-models"), tmp_path / "model")
    for title, source in page.files.items():
        (tmp_path / title).write_text(source)
    typed = [command for command in page.commands if not command.startswith("pip ")]
    assert [command.split()[:2] for command in typed[1:]] == [
        ["leyden", verb] for verb in ("doctor", "train", "rollouts", "show")
    ]
    for command in typed:
        START["run"](tmp_path, START["command_here"](name, command, real=False))
    assert (tmp_path / "runs" / "run" / "checkpoints" / "last" / "model.safetensors").is_file()
    assert page.new_lines <= START["MOST_NEW_LINES"]
