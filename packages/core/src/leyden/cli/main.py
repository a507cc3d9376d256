"""The command line `leyden`. Commands of other packages join by the entry point group `leyden.commands`."""

import importlib.metadata
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import typer

from leyden.cli.doctor import doctor
from leyden.cli.episodes import export, gc, import_episodes
from leyden.cli.keys import keys
from leyden.cli.rollouts import rollouts
from leyden.cli.run import run
from leyden.cli.serve import serve
from leyden.cli.show import show
from leyden.errors import BadInput, LeydenError

__all__ = ["EXIT_STATUSES", "application", "main"]

EXIT_STATUSES = {
    "0": "done",
    "1": "it could not go on, or `doctor` found a problem; the message says what to change",
    "2": "bad input, refused before anything was started",
    "128 + n": "ended by signal n (130: Ctrl-C, 143: SIGTERM), in order; what was saved stays",
}
_ANY_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def application(*, load_all: bool = False) -> typer.Typer:
    """The command line, with the commands of all packages.

    Args:
        load_all: load every command; otherwise those of other packages only when asked for, as imports take seconds.
    """
    statuses = "; ".join(f"{status}: {meaning}" for status, meaning in EXIT_STATUSES.items())
    app = typer.Typer(
        name="leyden",
        help="Reinforcement learning for the agents that people already have.",
        epilog=f"Exit statuses: {statuses}.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for command in (serve, run, rollouts, show, doctor, export, gc):
        app.command()(command)
    app.command("import")(import_episodes)
    app.add_typer(keys, name="keys")
    wanted = _wanted()
    for entry in importlib.metadata.entry_points(group="leyden.commands"):
        command = _load(entry) if load_all or entry.name in wanted else _described(entry.name)
        app.command(entry.name, context_settings=_ANY_FLAGS)(command)
    return app


def _wanted() -> list[str]:
    """What was asked for; where a shell completes a line, all its words."""
    return [
        *sys.argv[1:2],
        *os.environ.get("COMP_WORDS", "").split(),
        *os.environ.get("_TYPER_COMPLETE_ARGS", "").split(),
    ]


def _load(entry: importlib.metadata.EntryPoint) -> Callable[..., Any]:
    try:
        return entry.load()
    except ImportError as error:
        raise LeydenError(
            f"the command {entry.name} cannot be loaded: {error}; install its package again "
            f"(it is {entry.dist.name if entry.dist else entry.value})"
        ) from error


def _described(name: str) -> Callable[[], None]:
    def described() -> None: ...

    described.__doc__ = f"See `leyden {name} --help`."
    return described


def _end_with_parent() -> None:
    """End when standard input closes: the parent that started us holds its other end, and is gone."""

    def watch() -> None:
        while os.read(0, 1024):  # not sys.stdin: its lock, held here, would break the interpreter's end
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="leyden-parent", daemon=True).start()


def main() -> None:
    """Run a command; an error of ours is one line, and exit status 2 for bad input, 1 for the rest."""
    if os.environ.pop("LEYDEN_EXIT_WITH_STDIN", None):
        _end_with_parent()
    try:
        application()()
    except LeydenError as error:
        if os.environ.get("LEYDEN_DEBUG"):
            raise
        print(f"leyden: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 1)
