"""A hook of mkdocs: pages that do not stand in this folder. That of the commands is written from the commands when the
site is built; that on security is SECURITY.md, which the repository keeps at its root.
"""

import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from leyden.cli.main import EXIT_STATUSES, application

__all__ = ["on_files", "on_page_markdown"]

SECURITY = Path(__file__).resolve().parents[1] / "SECURITY.md"

OPENING = """# Commands

Every command says `--help`. `leyden --install-completion` completes commands and options in your shell from then on.

## Exit statuses

| status | means |
|---|---|
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages (mkdocs's event `on_files`)."""
    commands = typer.main.get_command(application(load_all=True)).commands
    parts = [OPENING, *(f"| {status} | {meaning} |\n" for status, meaning in EXIT_STATUSES.items())]
    parts += [_section(name, commands[name]) for name in sorted(commands)]
    files.append(File.generated(config, "cli.md", content="".join(parts)))
    files.append(File.generated(config, "security.md", content=SECURITY.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let what links to the file in the repository link to the page (mkdocs's event `on_page_markdown`)."""
    return markdown.replace("](../SECURITY.md)", "](security.md)")


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
