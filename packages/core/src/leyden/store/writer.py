"""One thread writes. It takes all that waits, runs each operation by itself, commits once, then answers everybody.

Group commit: the price of one durable commit is shared by all writes that arrived while the last one was under way.
Operations of one kind that stand side by side run as one; if that fails, each by itself: none fails for another.
"""

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from leyden.errors import BadInput, LeydenError, Unreachable
from leyden.store.changes import take_touched

__all__ = ["Operation", "Together", "Writer"]

T = TypeVar("T")
Operation = Callable[[Connection], T]
Together = Callable[[Connection, list[T]], None]
"""Does for a list of items what it would do for each of them, one after the other; all or none."""
_MOST = 256  # operations in one commit
_TICK_AGAIN_S = 1.0  # after a tick that failed
_LONGEST_SLEEP_S = 3600.0  # the queue refuses to sleep for centuries, as a lease may last


@dataclass(frozen=True)
class _Pending:
    operation: Operation[Any]
    future: "Future[Any]" = field(default_factory=Future[Any])
    together: Together[Any] | None = None
    item: Any = None


class Writer:
    """Runs operations in their order, once started, and `tick` at the UNIX time that it returned last, for leases.

    `changed` hears after each commit which topics (`leyden.store.changes.touch`) it touched; `announce` just before, on
    the connection that is committed, with the time of the next tick.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tick: Callable[[Connection], float | None],
        changed: Callable[[Collection[str]], None],
        announce: Callable[[Connection, Collection[str], float | None], None],
    ) -> None:
        self._engine = engine
        self._tick = tick
        self._changed = changed
        self._announce = announce
        self._next_tick: float | None = 0.0
        self._waiting: queue.SimpleQueue[_Pending | float | None] = queue.SimpleQueue()
        self._wanted: list[_Pending] = []  # of this commit
        self._door = threading.Lock()
        self._closed: str | None = None  # why
        self._thread = threading.Thread(target=self._run, name="leyden-store-writer", daemon=True)

    def start(self) -> None:
        """Begin to write, and to tick; what `changed` and `announce` need must be there."""
        self._thread.start()

    def submit(self, operation: Operation[T]) -> "Future[T]":
        """Run `operation` in a transaction; the future resolves after the commit.

        Raises:
            Unreachable: the writer was closed.
        """
        return self._put(_Pending(operation))

    def submit_together(self, operation: Together[T], item: T) -> "Future[None]":
        """Run `operation` on this item, and in the same go on those of its neighbours; else as `submit`.

        Raises:
            Unreachable: the writer was closed.
        """
        return self._put(_Pending(lambda connection: operation(connection, [item]), together=operation, item=item))

    def _put(self, pending: _Pending) -> "Future[Any]":
        with self._door:
            if self._closed is not None:
                raise self._gone()
            self._waiting.put(pending)
        return pending.future

    def tick_by(self, when: float) -> None:
        """Run `tick` at `when` at the latest; called by operations, on the writer's own thread."""
        if self._next_tick is None or when < self._next_tick:
            self._next_tick = when

    def remind(self, when: float) -> None:
        """As `tick_by`, from any thread: another server leased something until then."""
        self._waiting.put(when)

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        with self._door:
            if self._closed is None:
                self._closed = "was closed"
                self._waiting.put(None)
        self._thread.join()

    def _gone(self) -> Unreachable:
        return Unreachable(f"the store {self._engine.url!r} {self._closed}; nothing more can be written through it")

    def _run(self) -> None:
        try:
            self._write()
        finally:
            self._end()

    def _write(self) -> None:
        open_for_more = True
        while open_for_more:
            taken, open_for_more = self._take()
            # Whoever gave up waiting before we began wants nothing written; from here on it cannot give up.
            self._wanted = [pending for pending in taken if pending.future.set_running_or_notify_cancel()]
            if self._next_tick is not None and self._next_tick <= time.time():
                self._wanted.append(_Pending(self._run_tick))
            if self._wanted:
                self._changed(self._commit(self._wanted))

    def _end(self) -> None:
        """Nobody waits for ever: if the thread ends of an error of its own, all who wait and all who come hear it."""
        with self._door:
            self._closed = self._closed or "lost its writer to an error that the log shows: restart the server"
        left = [pending.future for pending in self._wanted if not pending.future.done()]
        with contextlib.suppress(queue.Empty):
            while True:
                item = self._waiting.get_nowait()
                if isinstance(item, _Pending) and item.future.set_running_or_notify_cancel():
                    left.append(item.future)
        for future in left:
            future.set_exception(self._gone())
        if left:
            self._changed(())

    def _run_tick(self, connection: Connection) -> None:
        self._next_tick = time.time() + _TICK_AGAIN_S
        self._next_tick = self._tick(connection)

    def _take(self) -> tuple[list[_Pending], bool]:
        """Everything that waits, or nothing when it is time to tick; False when the writer is to end."""
        taken: list[_Pending] = []
        try:
            item = self._waiting.get(timeout=self._sleep_s())
            while item is not None:
                if isinstance(item, _Pending):
                    taken.append(item)
                else:
                    self.tick_by(item)
                if len(taken) == _MOST:
                    return taken, True
                item = self._waiting.get_nowait()
        except queue.Empty:
            return taken, True
        return taken, False

    def _sleep_s(self) -> float | None:
        if self._next_tick is None:
            return None
        return min(max(0.0, self._next_tick - time.time()), _LONGEST_SLEEP_S)

    def _commit(self, wanted: list[_Pending]) -> set[str]:
        """Returns the topics that were touched."""
        try:
            return self._commit_by(_whole if _is_one(wanted) else _each, wanted)
        except _Refused:  # all was undone; now each by itself, as one of them is at fault
            return self._commit_by(_each, wanted)

    def _commit_by(self, run: "_Run", wanted: list[_Pending]) -> set[str]:
        touched: set[str] = set()
        results: list[tuple[Future[Any], Any]] = []
        refused: list[tuple[Future[Any], Exception]] = []
        committing = False
        try:
            with self._engine.connect() as connection, connection.begin():
                for pending, result in run(connection, wanted):
                    if isinstance(result, _Refused):
                        refused.append((pending.future, result.error))
                    else:
                        results.append((pending.future, result))
                touched = take_touched(connection)
                if touched:
                    self._announce(connection, touched, self._next_tick)
                committing = True
        except SQLAlchemyError as error:
            # A full disk, a lost connection: everybody of this batch hears it.
            self._next_tick = time.time() + _TICK_AGAIN_S
            refused = [(pending.future, _unreachable(error, committing=committing)) for pending in wanted]
            results = []
        for future, error in refused:
            future.set_exception(error)
        for future, result in results:
            future.set_result(result)
        return touched


class _Refused(Exception):
    """One operation failed and was undone; the others of its batch stand."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


_Run = Callable[[Connection, list[_Pending]], Iterable[tuple[_Pending, Any]]]


def _is_one(wanted: list[_Pending]) -> bool:
    """Whether they can run as one, so that a transaction of their own is all the savepoint that they need."""
    together = wanted[0].together
    return len(wanted) == 1 or (together is not None and all(pending.together is together for pending in wanted))


def _whole(connection: Connection, wanted: list[_Pending]) -> list[tuple[_Pending, Any]]:
    """Every operation with its result, of those that run as one.

    Raises:
        _Refused: it failed, and what it did is to be undone with its transaction.
    """
    first = wanted[0]
    try:
        if first.together is None:
            return [(first, first.operation(connection))]
        first.together(connection, [pending.item for pending in wanted])
    except Exception as error:  # not swallowed: it is raised where the operation was asked for
        raise _Refused(_told(error)) from error
    return [(pending, None) for pending in wanted]


def _each(connection: Connection, wanted: list[_Pending]) -> Iterator[tuple[_Pending, Any]]:
    """Every operation with its result, or with its refusal, each in a savepoint."""
    for together, group in itertools.groupby(wanted, key=lambda pending: pending.together):
        some = list(group)
        if together is not None and len(some) > 1:
            items = [pending.item for pending in some]
            try:
                _in_savepoint(connection, lambda connection, run=together, items=items: run(connection, items))
            except _Refused:
                pass  # one of them is at fault, and each by itself tells which
            else:
                yield from ((pending, None) for pending in some)
                continue
        for pending in some:
            yield pending, _tried(connection, pending.operation)


def _tried(connection: Connection, operation: Operation[Any]) -> Any:
    try:
        return _in_savepoint(connection, operation)
    except _Refused as refusal:
        return refusal


def _in_savepoint(connection: Connection, operation: Operation[T]) -> T:
    savepoint = connection.begin_nested()
    try:
        result = operation(connection)
        savepoint.commit()
    except Exception as error:  # not swallowed: it is raised where the operation was asked for
        try:
            savepoint.rollback()
        except SQLAlchemyError as gone:
            # The database gave up the whole transaction (SQLite does so on a full disk); the first error says why.
            raise (error if isinstance(error, SQLAlchemyError) else gone) from None
        raise _Refused(_told(error)) from error
    return result


def _told(error: Exception) -> Exception:
    """The error as the caller can act on it: a value that no database holds, or a database that does not answer."""
    if isinstance(error, LeydenError):
        return error
    if isinstance(error, IntegrityError | DataError):
        return BadInput(f"the database refused a value: {error.orig}; nothing of this operation was kept")
    if isinstance(error, SQLAlchemyError):
        return _unreachable(error)
    if isinstance(error, ValueError | OverflowError):
        return BadInput(f"a value cannot be stored: {error}; nothing of this operation was kept")
    return error


def _unreachable(error: SQLAlchemyError, *, committing: bool = False) -> Unreachable:
    cause = getattr(error, "orig", None) or error
    kept = "whether this was kept is not known, and to repeat it is safe" if committing else "nothing of this was kept"
    return Unreachable(f"the store could not write: {cause}; {kept}, try again once that is mended")
