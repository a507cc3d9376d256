"""Threads and executors carry the rollout's scope and what adapters know; else the context stays as Python has it."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

from leyden.scope import scope_variable

__all__ = ["carry", "install_threads", "uninstall_threads"]

_submit = ThreadPoolExecutor.submit
_start = threading.Thread.start
_carried: list[ContextVar[Any]] = [scope_variable]

Values = list[tuple[ContextVar[Any], Any]]


def carry(variable: ContextVar[Any]) -> None:
    """Take this variable along too, wherever there is a scope; twice is once."""
    if variable not in _carried:
        _carried.append(variable)


def install_threads() -> None:
    """Patch `ThreadPoolExecutor.submit` and `threading.Thread.start`; twice is once."""
    ThreadPoolExecutor.submit = _submit_in_scope
    threading.Thread.start = _start_in_scope


def uninstall_threads() -> None:
    """Undo it."""
    ThreadPoolExecutor.submit = _submit
    threading.Thread.start = _start


def _here() -> Values | None:
    """What is carried from here; None outside any rollout."""
    return [(variable, variable.get(None)) for variable in _carried] if scope_variable.get() is not None else None


def _submit_in_scope(self: ThreadPoolExecutor, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
    values = _here()
    if values is None:
        return _submit(self, fn, *args, **kwargs)
    return _submit(self, _run_in_scope, values, fn, args, kwargs)


def _run_in_scope(values: Values, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run in the worker thread's context but for our variables, which are put back: the thread serves others next."""
    tokens = [(variable, variable.set(value)) for variable, value in values]
    try:
        return fn(*args, **kwargs)
    finally:
        for variable, token in tokens:
            variable.reset(token)


def _start_in_scope(self: threading.Thread) -> None:
    values = _here()
    # An executor's threads outlive the task that started them; `submit` gives each task its own scope.
    if values is not None and not _of_executor(self):
        self.run = _ScopedRun(values, self.run)
    _start(self)


def _of_executor(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return getattr(target, "__module__", None) == "concurrent.futures.thread"


class _ScopedRun:
    """A thread's `run` with the scope of the code that started the thread."""

    def __init__(self, values: Values, run: Any) -> None:
        self._values = values
        self._run = run

    def __call__(self) -> None:
        for variable, value in self._values:
            variable.set(value)
        self._run()
