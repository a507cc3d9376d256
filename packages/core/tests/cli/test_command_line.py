"""What the command line says of itself: help with an example for every command, completion, exit statuses."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from leyden.cli.main import application

LEYDEN = Path(sys.executable).with_name("leyden")


def commands(group: Any, *names: str) -> Iterator[tuple[str, ...]]:
    """All that can be typed, such as ("keys", "add")."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield (*names, name)


COMMANDS = list(commands(typer.main.get_command(application(load_all=True))))


def leyden(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "COLUMNS": "200"}
    return subprocess.run([LEYDEN, *arguments], capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example(command: tuple[str, ...]) -> None:
    told = leyden(*command, "--help")
    assert told.returncode == 0, told.stderr
    assert f"leyden {' '.join(command)} " in told.stdout.partition("Example: ")[2]


def test_help_lists_every_command_and_the_exit_statuses() -> None:
    told = leyden("--help").stdout
    assert {("train",), ("import",), ("keys", "add")} <= set(COMMANDS)
    assert all(f" {command[0]} " in told for command in COMMANDS)
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
