"""`leyden keys`: operators' keys in a key file. A server that was started with it follows within a second."""

import time
from pathlib import Path
from typing import Annotated

import typer

from leyden.key_file import Role

__all__ = ["keys"]

keys = typer.Typer(help="Operators' keys, for `leyden serve --keys FILE`.", no_args_is_help=True)

KeysOption = Annotated[Path, typer.Option("--keys", help="The key file.")]
_FILE = Path("leyden.keys")


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.", show_default=False)],
    role: Annotated[Role, typer.Option(help="read: look. run: also run agents. train: everything.")] = "read",
    file: KeysOption = _FILE,
) -> None:
    """Make a key and print it, once: the file keeps its hash.

    Example: leyden keys add ann --role train
    """
    from leyden.key_file import KeyFile

    print(KeyFile(file).add(name, role))


@keys.command("list")
def list_(file: KeysOption = _FILE) -> None:
    """Names, roles and ages of the keys.

    Example: leyden keys list --keys team.keys
    """
    from leyden.key_file import KeyFile

    for entry in KeyFile(file).names():
        made = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.created_at))
        print(f"{entry.name}  {entry.role}  made {made}  sha256 {entry.sha256[:12]}…")


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="As it was added.", show_default=False)], file: KeysOption = _FILE
) -> None:
    """Take a key away.

    Example: leyden keys revoke ann
    """
    from leyden.key_file import KeyFile

    KeyFile(file).revoke(name)
    print(f"leyden: {name} is revoked; a running server forgets it within a second")


@keys.command()
def rotate(
    now: Annotated[bool, typer.Option("--now", help="Refuse what the old one signed: running agents fail.")] = False,
    file: KeysOption = _FILE,
) -> None:
    """Sign rollouts' keys with a new secret. Those that were signed with the old one last until they expire.

    Example: leyden keys rotate
    """
    from leyden.key_file import KeyFile
    from leyden.keys import ROLLOUT_KEY_S

    KeyFile(file).rotate_signing(0 if now else ROLLOUT_KEY_S)
    print("leyden: rollout keys are signed with a new secret")
