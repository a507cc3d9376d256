"""The distributions, built and installed away from the repository."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PLUGINS = ("packages/langchain-plugin", "packages/openai-agents-plugin", "packages/autogen-plugin")
DISTRIBUTIONS = ("packages/core", *PLUGINS, "trainer")

pytestmark = pytest.mark.slow

USE = """
import asyncio, importlib.metadata, sys
import leyden, leyden_autogen, leyden_langchain, leyden_openai_agents, leyden_trainer
ours = (leyden, leyden_autogen, leyden_langchain, leyden_openai_agents, leyden_trainer)
assert all(m.__file__.startswith(sys.prefix) for m in ours), leyden.__file__
from leyden.store import SqlStore
store = SqlStore.open(sys.argv[1])
asyncio.run(store.close())
print(sorted(e.name for e in importlib.metadata.entry_points(group="leyden.adapters")))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has the wheels; the libraries they need are those of the environment of this test."""
    folder = tmp_path_factory.mktemp("wheels")
    for distribution in DISTRIBUTIONS:
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
        subprocess.run([*command, str(REPOSITORY / distribution)], check=True, capture_output=True)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    wheels = [str(wheel) for wheel in folder.glob("*.whl")]
    assert len(wheels) == len(DISTRIBUTIONS)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", *wheels], check=True)
    return python


def run(python: Path, folder: Path, *arguments: str) -> str:
    # Unlike a .pth file, PYTHONPATH does not follow the editable installs of this environment.
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    command = [str(python), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, env=environment).stdout


def test_the_wheels_work_outside_the_repository(python: Path, tmp_path: Path) -> None:
    said = run(python, tmp_path, "-c", USE, str(tmp_path / "store.sqlite"))
    assert said == "['autogen', 'langchain', 'openai-agents']\n"


def test_the_command_of_the_trainer_joins_the_command_line_by_its_entry_point(python: Path, tmp_path: Path) -> None:
    text = run(python, tmp_path, "-m", "leyden", "--help")
    assert all(command in text for command in ("serve", "run", "rollouts", "show", "doctor", "train"))
