"""A client and a server of versions that do not fit say so at the start; versions of all packages agree."""

import asyncio
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leyden
from leyden.client import HttpStore
from leyden.compatibility import fits
from leyden.errors import WrongVersion
from leyden.testing.elder_server import elder_server

REPOSITORY = Path(__file__).resolve().parents[4]
PROJECTS = [*sorted(REPOSITORY.glob("packages/*/pyproject.toml")), REPOSITORY / "trainer" / "pyproject.toml"]


@pytest.fixture
def elder() -> Iterator[str]:
    with elder_server() as url:
        yield url


async def test_the_first_verb_of_a_client_says_which_versions_do_not_fit(elder: str) -> None:
    store = HttpStore(elder, "key")
    with pytest.raises(WrongVersion, match=r"is leyden 0\.0\.9, this is leyden 0\.1\.0; .*leyden==0\.0\.\*"):
        await store.endpoints()
    assert (await store.health())["version"] == "0.0.9"
    await store.close()


@pytest.mark.parametrize(
    "command",
    [
        ["run", "agent.py:solve", "--forever", "--server"],
        ["rollouts", "--server"],
        ["doctor", "--server"],
    ],
    ids=lambda command: command[0],
)
def test_a_runner_and_a_reader_say_it_before_they_do_anything(elder: str, command: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "leyden", *command, elder],
        env={**os.environ, "LEYDEN_KEY": "key"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"the server at {elder} is leyden 0.0.9, this is leyden {leyden.__version__}" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ("0.1.0", "0.1.7", True),
        ("0.1.0", "0.2.0", False),
        ("0.1.0", "0.1.0rc1", True),
        ("1.2.0", "1.9.3", True),
        ("1.0.0", "0.9.0", False),
        ("2.0.0", "1.9.9", False),
        ("0.1.0", "None", False),
    ],
)
def test_until_1_the_second_number_must_agree_and_then_the_first(ours: str, theirs: str, expected: bool) -> None:
    assert fits(ours, theirs) is fits(theirs, ours) is expected


def test_all_packages_have_one_version_which_the_changelog_heads() -> None:
    for file in PROJECTS:
        project = tomllib.loads(file.read_text())["project"]
        assert project["version"] == leyden.__version__, file
        assert importlib.metadata.version(project["name"]) == leyden.__version__
        pins = [need for need in project["dependencies"] if re.match(r"leyden\b", need)]
        assert pins == ([] if project["name"] == "leyden" else [f"leyden=={leyden.__version__}"]), file
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == leyden.__version__


def test_a_server_of_ours_fits(tmp_path: Path) -> None:
    from leyden.server.serve import BackgroundServer

    async def endpoints(url: str, key: str) -> list[Any]:
        store = HttpStore(url, key)
        try:
            return list(await store.endpoints())
        finally:
            await store.close()

    with BackgroundServer(tmp_path / "store.sqlite") as server:
        assert asyncio.run(endpoints(server.url, server.key)) == []
