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
from leyden.cli.keys import keys
from leyden.cli.rollouts import rollouts
from leyden.cli.run import run
from leyden.cli.serve import serve
from leyden.cli.show import show
from leyden.errors import BadInput, LeydenError

__all__ = ["main"]

_ANY_FLAGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def _app() -> typer.Typer:
    app = typer.Typer(
        name="leyden",
        help="Reinforcement learning for the agents that people already have.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for command in (serve, run, rollouts, show, doctor):
        app.command()(command)
    app.add_typer(keys, name="keys")
    for entry in importlib.metadata.entry_points(group="leyden.commands"):
        # Loaded only when it is what the user asked for: another package's imports may take seconds.
        command = _load(entry) if entry.name in sys.argv[1:2] else _described(entry.name)
        app.command(entry.name, context_settings=_ANY_FLAGS)(command)
    return app


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
        _app()()
    except LeydenError as error:
        if os.environ.get("LEYDEN_DEBUG"):
            raise
        print(f"leyden: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 1)
