"""What the command line says of itself: help with an example for every command, completion, exit statuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LEYDEN = Path(sys.executable).with_name("leyden")
COMMANDS = ("serve", "run", "rollouts", "show", "doctor", "train", "eval", "serve-model", "credit")


def leyden(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "COLUMNS": "200"}
    return subprocess.run([LEYDEN, *arguments], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    told = leyden(command, "--help")
    assert told.returncode == 0, told.stderr
    assert f"leyden {command} " in told.stdout.partition("Example: ")[2]


def test_help_lists_every_command_and_the_exit_statuses() -> None:
    told = leyden("--help").stdout
    assert all(f" {command} " in told for command in COMMANDS)
    assert "Exit statuses: 0: done; 1: it could not go on" in told
    assert "128 + n: ended by signal n" in told


@pytest.mark.parametrize(
    ("line", "expected"), [("leyden ser", ["serve", "serve-model"]), ("leyden train --resu", ["--resume"])]
)
def test_a_shell_completes_commands_and_options_of_other_packages_too(line: str, expected: list[str]) -> None:
    place = str(len(line.split()) - 1)
    told = leyden(_LEYDEN_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=place)
    assert told.stdout.split() == expected, told.stderr


def test_bad_input_ends_with_2_and_what_cannot_go_on_with_1(tmp_path: Path) -> None:
    assert leyden("rollouts", "--store", str(tmp_path / "none.sqlite")).returncode == 2
    assert leyden("rollouts", "--no-such-option").returncode == 2
    assert leyden("rollouts", "--server", "http://127.0.0.1:9", LEYDEN_KEY="key").returncode == 1
