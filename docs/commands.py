"""A hook of mkdocs: the page of commands, written from the commands themselves when the site is built."""

import re
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from leyden.cli.main import EXIT_STATUSES, application

__all__ = ["on_files"]

OPENING = """# Commands

Every command says `--help`. `leyden --install-completion` completes commands and options in your shell from then on.

## Exit statuses

| status | means |
|---|---|
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page (mkdocs's event `on_files`)."""
    commands = typer.main.get_command(application(load_all=True)).commands
    parts = [OPENING, *(f"| {status} | {meaning} |\n" for status, meaning in EXIT_STATUSES.items())]
    parts += [_section(name, commands[name]) for name in sorted(commands)]
    files.append(File.generated(config, "cli.md", content="".join(parts)))
    return files


def _section(name: str, command: Any) -> str:
    said = re.sub(r"^Example: (.*)$", r"```bash\n\1\n```", command.help, flags=re.MULTILINE)
    context = typer.Context(command, info_name=name)
    usage = f"```text\nleyden {name} {' '.join(command.collect_usage_pieces(context))}\n```"
    rows = "".join(_row(option, context) for option in command.params if option.name != "help")
    return f"\n## leyden {name}\n\n{usage}\n\n{said}\n\n| option | is | default |\n|---|---|---|\n{rows}"


def _row(option: Any, context: typer.Context) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    default = option.get_default(context, call=False)
    shown = f"`{default}`" if default not in (None, False, "", ()) else ""
    return f"| {names} | {(option.help or '').replace('|', '&#124;')} | {shown} |\n"
