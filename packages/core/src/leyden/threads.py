"""Threads and executors carry the rollout's scope, and only that: the rest of the context stays as Python has it."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from leyden.scope import Scope, scope_variable

__all__ = ["install_threads", "uninstall_threads"]

_submit = ThreadPoolExecutor.submit
_start = threading.Thread.start


def install_threads() -> None:
    """Patch `ThreadPoolExecutor.submit` and `threading.Thread.start`; twice is once."""
    ThreadPoolExecutor.submit = _submit_in_scope
    threading.Thread.start = _start_in_scope


def uninstall_threads() -> None:
    """Undo it."""
    ThreadPoolExecutor.submit = _submit
    threading.Thread.start = _start


def _submit_in_scope(self: ThreadPoolExecutor, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
    scope = scope_variable.get()
    if scope is None:
        return _submit(self, fn, *args, **kwargs)
    return _submit(self, _run_in_scope, scope, fn, args, kwargs)


def _run_in_scope(scope: Scope, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run in the worker thread's own context but for our variable, which is put back: the thread serves others next."""
    token = scope_variable.set(scope)
    try:
        return fn(*args, **kwargs)
    finally:
        scope_variable.reset(token)


def _start_in_scope(self: threading.Thread) -> None:
    scope = scope_variable.get()
    # An executor's threads outlive the task that started them; `submit` gives each task its own scope.
    if scope is not None and not _of_executor(self):
        self.run = _ScopedRun(scope, self.run)
    _start(self)


def _of_executor(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", None) == "concurrent.futures.thread"


class _ScopedRun:
    """A thread's `run` with the scope of the code that started the thread."""

    def __init__(self, scope: Scope, run: Any) -> None:
        self._scope = scope
        self._run = run

    def __call__(self) -> None:
        scope_variable.set(self._scope)
        self._run()
