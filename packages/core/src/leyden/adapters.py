"""Adapters of frameworks: found by entry point, installed once, asked who is calling.

An adapter that is broken costs the calls their structure, loudly: the agent runs on, its calls are still the gateway's.
"""

import importlib.metadata
import logging
from typing import Protocol

from leyden.exception_text import exception_text
from leyden.scope import Scope
from leyden.types import Structure

__all__ = ["Adapter", "broken_adapters", "identified", "install_adapters", "installed_adapters", "uninstall_adapters"]

_log = logging.getLogger("leyden")
_installed: dict[str, "Adapter"] = {}
_broken: dict[str, str] = {}


class Adapter(Protocol):
    """One framework's callbacks, turned into identity and structure."""

    name: str

    def install(self) -> None:
        """Register with the framework; twice is once."""
        ...

    def uninstall(self) -> None:
        """Undo `install`."""
        ...

    def structure(self) -> Structure | None:
        """Who is calling the model in this very context; None if it is not this framework."""
        ...

    def called(self, call_id: str, structure: Structure, scope: Scope) -> None:
        """The call for which `structure` was given has this id."""
        ...


def install_adapters() -> None:
    """Load and install every adapter whose distribution is installed (entry points `leyden.adapters`)."""
    for entry in importlib.metadata.entry_points(group="leyden.adapters"):
        if entry.name in _installed:
            continue
        try:
            adapter: Adapter = entry.load()()
            adapter.install()
        except Exception as error:  # the capture boundary
            _broken[entry.name] = exception_text(error)
            _log.exception("the adapter %s could not be installed; its calls will have no structure", entry.name)
        else:
            _installed[entry.name] = adapter
            _broken.pop(entry.name, None)


def uninstall_adapters() -> None:
    """Uninstall what `install_adapters` installed."""
    while _installed:
        _, adapter = _installed.popitem()
        adapter.uninstall()


def installed_adapters() -> tuple[str, ...]:
    """Names of the adapters at work."""
    return tuple(sorted(_installed))


def broken_adapters() -> dict[str, str]:
    """Adapters that could not be installed, and why."""
    return dict(_broken)


def identified(call_id: str, scope: Scope) -> Structure | None:
    """Who makes this call, by the adapter that knows, which learns its id; None if none does.

    An adapter that raises costs this call its structure and is a loss of the rollout.
    """
    for adapter in _installed.values():
        try:
            structure = adapter.structure()
            if structure is not None:
                adapter.called(call_id, structure, scope)
                return structure
        except Exception as error:  # the capture boundary
            _log.exception("the adapter %s failed", adapter.name)
            scope.losses.append(f"the adapter {adapter.name} failed at call {call_id}: {exception_text(error)}")
    return None
