"""Every block of every page holds: Python is executed, TOML is validated, commands are parsed by the command line.

A block with a title is a file in the page's own folder. What cannot run has a reason before it, in a comment:
`<!-- skip: next "why" -->`. `text`, what something prints, is not run.
"""

import json
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from leyden.capture import uninstall_capture
from leyden.cli.main import application
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden_trainer.config import load_config, make_config
from leyden_trainer.testing import make_tiny_model

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
PAGES += [REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("packages/*/README.md"))]
STARTS = sorted((REPOSITORY / "docs" / "start").glob("*.md"))
FENCE = re.compile(r'(?P<language>\w*)(?: title="(?P<title>[^"]+)")?[^\n]*\n')
LEAST = {
    "model": {"path": "model", "device": "cpu"},
    "agent": {"function": "agent.py:solve"},
    "reward": {"function": "reward.py:score"},
    "tasks": {"train": "train.jsonl", "heldout": "heldout.jsonl"},
}
"""What a page's fragment of a configuration is laid over."""
TASKS = {"train": range(4), "heldout": range(4, 6)}

Check = Callable[[list[str], Path], object]


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: laid_over(below[key], value) for key, value in above.items() if isinstance(below.get(key), Mapping)}
    return {**below, **above, **inner}


def check_leyden(arguments: list[str], folder: Path) -> None:
    if arguments[0].startswith("--"):
        assert arguments[0] in ("--help", "--install-completion")
        return
    command, rest = typer.main.get_command(application(load_all=True)), arguments
    while hasattr(command, "commands"):  # `leyden keys add`
        command, rest = command.commands[rest[0]], rest[1:]
    context = command.make_context(arguments[0], rest)
    if arguments[0] in ("train", "eval"):
        file = folder / context.params["config"]
        if not file.is_file():
            least = [f"{part}.{key} = {value!r}\n" for part, keys in LEAST.items() for key, value in keys.items()]
            file.write_text("".join(least))
        load_config(file, context.args)
    else:
        assert context.args == []


def check_make(arguments: list[str], folder: Path) -> None:
    rules = re.findall(r"^([\w%-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    targets = [word for word in arguments if "=" not in word]
    assert all(any(re.fullmatch(rule.replace("%", r"[\w-]+"), target) for rule in rules) for target in targets)


def check_pip(arguments: list[str], folder: Path) -> None:
    assert arguments[0] == "install"
    for place in (word for word in arguments if word.startswith("./")):
        where, _, extra = place.partition("[")
        project = tomllib.loads((REPOSITORY / where / "pyproject.toml").read_text())["project"]
        assert not extra or extra.rstrip("]") in project["optional-dependencies"]


def check_script(arguments: list[str], folder: Path) -> None:
    assert any((place / arguments[0]).is_file() for place in (folder, REPOSITORY))


COMMANDS: dict[str, Check] = {
    "leyden": check_leyden,
    "make": check_make,
    "pip": check_pip,
    "python": check_script,
    "scripts/test_sdk": lambda arguments, folder: None,
    "export": lambda arguments, folder: None,
}
"""By program. Any other is an error, so that nothing stands in a page unlooked at."""


def run_python(source: str, folder: Path, namespace: dict[str, Any]) -> None:
    exec(compile(source, "block", "exec"), namespace)  # as the cells of a notebook: one namespace, in order


def check_toml(source: str, folder: Path, namespace: dict[str, Any]) -> None:
    make_config(laid_over(LEAST, tomllib.loads(source)), folder=folder, source="the block")


def check_commands(source: str, folder: Path, namespace: dict[str, Any]) -> None:
    for line in source.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            COMMANDS[words[0]](words[1:], folder)


LANGUAGES: dict[str, Callable[[str, Path, dict[str, Any]], object]] = {
    "python": run_python,
    "toml": check_toml,
    "bash": check_commands,
    "json": lambda source, folder, namespace: json.loads(source),
    "text": lambda source, folder, namespace: None,
}


def evaluate(example: Example) -> None:
    lexemes, folder = example.parsed, Path.cwd()
    if lexemes["title"]:
        (folder / lexemes["title"]).write_text(lexemes["source"])
    if lexemes["title"] and lexemes["language"] == "python":
        runpy.run_path(lexemes["title"])
    elif lexemes["language"] == "python" and "packages" in Path(example.path).parts:
        # What a README registers by hand stays for the life of its process.
        subprocess.run([sys.executable, "-c", lexemes["source"]], check=True)
    else:
        LANGUAGES[lexemes["language"]](lexemes["source"], folder, example.namespace)


def blocks(document: Document) -> Iterator[Region]:
    """All fenced blocks; one of a language that is not known fails when it is evaluated."""
    for found in RawFencedCodeBlockLexer(FENCE)(document):
        yield Region(found.start, found.end, found.lexemes, evaluate)


def examples(page: Path) -> list[Any]:
    document = Sybil(parsers=[SkipParser(), blocks], path=str(page.parent)).parse(page)
    return [pytest.param(one, id=f"{page.relative_to(REPOSITORY)}:{one.line}") for one in document.examples()]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A page's folder, with a tiny model and tasks in it; its blocks add files."""
    model = make_tiny_model(tmp_path_factory.mktemp("model") / "model")
    made: dict[str, Path] = {}

    def of(page: str) -> Path:
        if page not in made:
            folder = made[page] = tmp_path_factory.mktemp(Path(page).stem)
            (folder / "model").symlink_to(model)
            for name, numbers in TASKS.items():
                lines = [json.dumps({"question": f"What is {a} + 2?", "answer": a + 2}) for a in numbers]
                (folder / f"{name}.jsonl").write_text("\n".join(lines))
        return made[page]

    return of


@pytest.fixture(scope="module")
def seven() -> Iterator[FakeServer]:
    """A model that says 5 + 2 = 7 whatever it is asked."""
    with FakeServer(lambda body, headers: Reply("5 + 2 = 7")) as policy:
        yield policy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundServer]:
    with BackgroundServer(tmp_path_factory.mktemp("server") / "store.sqlite") as server:
        yield server


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch, seven: FakeServer, server: BackgroundServer) -> Iterator[None]:
    values = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": seven.url, "LEYDEN_SERVER": server.url}
    for name, value in (values | {"LEYDEN_KEY": server.key}).items():
        monkeypatch.setenv(name, value)
    yield
    uninstall_capture()


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("example", [example for page in PAGES for example in examples(page)])
def test_a_block_of_a_page_runs(
    example: Example, folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder_of(example.path))
    example.evaluate()


@pytest.mark.parametrize("page", STARTS, ids=lambda page: page.stem)
def test_the_agent_of_a_start_page_is_run_and_scored_as_it_stands(
    page: Path, tmp_path: Path, seven: FakeServer
) -> None:
    for title, source in re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE):
        (tmp_path / title).write_text(source)
    (tmp_path / "tasks.jsonl").write_text(
        '{"question": "What is 5 + 2?", "answer": 7}\n{"question": "1 + 1?", "answer": 2}'
    )
    command = [sys.executable, "-m", "leyden", "run", "agent.py:solve", "--tasks", "tasks.jsonl"]
    command += ["--reward", "reward.py:score", "--model-url", seven.url, "--model", "fake"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 rollouts: 2 succeeded" in done.stdout, done.stdout + done.stderr
    assert "mean reward 0.500 over 2 complete rollouts" in done.stdout


def test_the_tracing_page_records_a_readable_call_without_a_gateway(
    folder_of: Callable[[str], Path], server: BackgroundServer, tmp_path: Path, seven: FakeServer
) -> None:
    """In a process of its own, since capture is installed for the whole of it."""
    page = REPOSITORY / "docs" / "tracing.md"
    source = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE))
    code = source["service.py"] + TRACED.format(url=seven.url, server=server.url, key=server.key)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "trace succeeded ['How many?'] 5 + 2 = 7 None\n"


TRACED = """
from langchain_openai import ChatOpenAI

async def agent(task):
    model = ChatOpenAI(model="gpt-4o-mini", base_url="{url}", api_key="none")
    return (await model.ainvoke(task["question"])).text

async def main():
    store = HttpStore("{server}", "{key}")
    assert await traced(store, agent, {{"question": "How many?"}}) == "5 + 2 = 7"
    (rollout,) = (await store.rollouts(mode="trace")).rollouts
    (call,) = await store.calls([rollout.id])
    answer = call.answer
    said = answer.choices[0]
    asked = [message["content"] for message in call.request.messages]
    print(rollout.mode, rollout.status, asked, said.message["content"], said.token_ids)
    await store.close()

asyncio.run(main())
"""
