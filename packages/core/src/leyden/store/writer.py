"""One thread writes. It takes all that waits, runs each operation in a savepoint, commits once, then answers everybody.

Group commit: the price of one durable commit is shared by all writes that arrived while the last one was under way.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from leyden.errors import Unreachable

__all__ = ["Operation", "Writer"]

T = TypeVar("T")
Operation = Callable[[Connection], T]
_MOST = 256  # operations in one commit


class Writer:
    """Runs operations in their order. `tick` runs on the thread at the UNIX time that it returned last, for leases."""

    def __init__(
        self, engine: Engine, *, tick: Callable[[Connection], float | None], changed: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._tick = tick
        self._changed = changed
        self._next_tick: float | None = 0.0
        self._waiting: queue.SimpleQueue[tuple[Operation[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="leyden-store-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T]) -> "Future[T]":
        """Run `operation` in a transaction; the future resolves after the commit."""
        future: Future[T] = Future()
        self._waiting.put((operation, future))
        return future

    def tick_by(self, when: float) -> None:
        """Run `tick` at `when` at the latest; called by operations, on the writer's own thread."""
        if self._next_tick is None or when < self._next_tick:
            self._next_tick = when

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_for_more = True
        while open_for_more:
            operations, open_for_more = self._take()
            if not operations and open_for_more:
                operations = [(self._run_tick, Future())]
            if operations:
                self._commit(operations)
                self._changed()

    def _run_tick(self, connection: Connection) -> None:
        self._next_tick = self._tick(connection)

    def _take(self) -> tuple[list[tuple[Operation[Any], Future[Any]]], bool]:
        """Everything that waits, or nothing when it is time to tick; False when the writer is to end."""
        taken: list[tuple[Operation[Any], Future[Any]]] = []
        wait_s = None if self._next_tick is None else max(0.0, self._next_tick - time.time())
        try:
            item = self._waiting.get(timeout=wait_s)
            while item is not None:
                taken.append(item)
                if len(taken) == _MOST:
                    return taken, True
                item = self._waiting.get_nowait()
        except queue.Empty:
            return taken, True
        return taken, False

    def _commit(self, operations: list[tuple[Operation[Any], Future[Any]]]) -> None:
        done: list[tuple[Future[Any], Any]] = []
        refused: list[tuple[Future[Any], Exception]] = []
        try:
            with self._engine.connect() as connection, connection.begin():
                for operation, future in operations:
                    try:
                        with connection.begin_nested():
                            done.append((future, operation(connection)))
                    except SQLAlchemyError:
                        raise
                    except Exception as error:  # noqa: BLE001  not swallowed: it is raised where the operation was asked for
                        refused.append((future, error))
        except SQLAlchemyError as error:
            # A full disk, a lost connection: nothing of this batch was kept, and everybody hears it.
            cause = getattr(error, "orig", None) or error
            self._next_tick = time.time() + 1.0
            for _, future in operations:
                future.set_exception(Unreachable(f"the store could not write: {cause}; nothing of it was kept"))
            return
        for future, error in refused:
            future.set_exception(error)
        for future, result in done:
            future.set_result(result)
