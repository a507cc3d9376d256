"""Turns capture on and off in a process: the openai hook, the installed adapters, and threads that carry scope."""

from leyden.adapters import install_adapters, uninstall_adapters
from leyden.hook import install_hook, uninstall_hook
from leyden.recorder import recorder
from leyden.scope import Scope
from leyden.threads import install_threads, uninstall_threads

__all__ = ["flush", "install_capture", "uninstall_capture"]


def install_capture(*, require_scope: bool = False) -> None:
    """Install everything; twice is once.

    Args:
        require_scope: refuse model calls outside any rollout (for a process where several run).
    """
    install_threads()
    install_adapters()
    install_hook(require_scope=require_scope)


def uninstall_capture() -> None:
    """Undo `install_capture`."""
    uninstall_hook()
    uninstall_adapters()
    uninstall_threads()


def flush(scope: Scope, *, timeout_s: float) -> None:
    """Wait until all that was captured for the scope has been sent; what could not be is in `scope.losses`."""
    recorder.flush(scope, timeout_s)
