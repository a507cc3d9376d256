"""A start page of the documentation, done as a new user does it: from `dist/`, in a clean environment, elsewhere.

The page is the script: its titled blocks are the files, its commands are run in order. Packages are installed from the
wheels instead of the clone, on one page from the source distributions, and, unless --real, two steps of a tiny model
stand for the page's training.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = ("langgraph", "openai-agents", "autogen")
FROM_SOURCE = "autogen"
"""The page that is done with the source distributions."""
DISTRIBUTIONS = {
    "./packages/core": "leyden",
    "./packages/langchain-plugin": "leyden_langchain",
    "./packages/openai-agents-plugin": "leyden_openai_agents",
    "./packages/autogen-plugin": "leyden_autogen",
    "./trainer": "leyden_trainer",
}
STAND_INS = ("agent.py", "make_tasks.py")
"""What the user has already: the agent, and the tasks."""
MOST_NEW_LINES = 10
SHORT = (
    "--model.path=model --model.device=cpu --trainer.steps=2 --trainer.tasks_per_step=2 --trainer.rollouts_per_task=4"
)
MAKE_MODEL = """
from pathlib import Path
from leyden_trainer.testing import warm_tiny_model
warm_tiny_model(Path("made")).rename("model")
"""
"""Untrained it would never end an answer, and the Agents SDK raises over one that was cut."""
INSTALLED = (
    "import leyden, leyden_trainer as t, sys; assert {m.__file__.startswith(sys.prefix) for m in (leyden, t)} == {True}"
)


@dataclass(frozen=True)
class Page:
    """A start page: its files by name, and its commands."""

    name: str
    files: dict[str, str]
    commands: list[str]

    @classmethod
    def read(cls, name: str) -> "Page":
        text = (REPOSITORY / "docs" / "start" / f"{name}.md").read_text(encoding="utf-8")
        files = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', text, re.DOTALL | re.MULTILINE))
        blocks = re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        return cls(name, files, [line for block in blocks for line in block.splitlines() if line.strip()])

    @property
    def new_lines(self) -> int:
        """Of what the user writes for Leyden."""
        new = [source for name, source in self.files.items() if name not in STAND_INS]
        return sum(bool(line.strip()) for source in new for line in source.splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", default=PAGES, help="names under docs/start")
    parser.add_argument("--real", action="store_true", help="the page's own model and number of steps")
    arguments = parser.parse_args()
    missed = [page.name for name in arguments.pages if not begin(page := Page.read(name), real=arguments.real)]
    if missed:
        sys.exit(f"not a checkpoint, or more than {MOST_NEW_LINES} new lines: {', '.join(missed)}")


def begin(page: Page, *, real: bool) -> bool:
    """Do the page; returns whether it ended in a checkpoint with few enough new lines."""
    with tempfile.TemporaryDirectory(prefix="leyden-start-") as place:
        folder = Path(place)
        subprocess.run([sys.executable, "-m", "venv", folder / ".venv"], check=True)
        for name, source in page.files.items():
            (folder / name).write_text(source, encoding="utf-8")
        started, trained_s = time.monotonic(), 0.0
        for command in page.commands:
            words = command_here(page.name, command, real=real)
            print(f"{page.name}$ {command}", flush=True)
            run(folder, words)
            if not real and lacks_model(folder):
                run(folder, ["python", "-c", MAKE_MODEL])
            if words[:2] == ["leyden", "train"]:
                trained_s = time.monotonic() - started
        run(folder, ["python", "-c", INSTALLED])
        checkpoint = folder / "runs" / "run" / "checkpoints" / "last" / "model.safetensors"
        met = checkpoint.is_file() and page.new_lines <= MOST_NEW_LINES
        model = "the page's model" if real else "a tiny model, two steps"
        print(
            f"{page.name}: {len(page.commands)} commands, no line in the agent, {page.new_lines} new lines elsewhere "
            f"(at most {MOST_NEW_LINES}), {trained_s / 60:.1f} minutes to the checkpoint with {model}: "
            f"{'met' if met else 'missed'}"
        )
        return met


def command_here(page: str, command: str, *, real: bool) -> list[str]:
    """The page's command with distributions in place of the clone's folders, and training cut short."""
    words = shlex.split(command)
    if words[0] == "pip":
        pins = ["-c", str(REPOSITORY / "constraints.txt"), "--quiet", *shlex.split(os.environ.get("PIP_ARGS", ""))]
        return [*words[:2], *pins, *(built(word, page) if word in DISTRIBUTIONS else word for word in words[2:])]
    if words[:2] == ["leyden", "train"] and not real:
        return [*words, *SHORT.split()]
    if words[:2] == ["leyden", "doctor"]:
        return [*words, "--port", "0"]  # the usual one may be another server's on this machine
    return words


def built(folder: str, page: str) -> str:
    suffix = "tar.gz" if page == FROM_SOURCE else "whl"
    (found,) = (REPOSITORY / "dist").glob(f"{DISTRIBUTIONS[folder]}-[0-9]*.{suffix}")
    return str(found)


def lacks_model(folder: Path) -> bool:
    return (folder / ".venv" / "bin" / "leyden").exists() and not (folder / "model").exists()


def run(folder: Path, words: list[str]) -> None:
    """Run a program of the clean environment; its output is shown if it fails."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENAI_"))}
    binaries = folder / ".venv" / "bin"
    environment = inherited | {
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": str(folder / ".venv"),
    }
    program = str(binaries / words[0])
    done = subprocess.run(
        [program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


if __name__ == "__main__":
    main()
