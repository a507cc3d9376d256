"""Sends what adapters captured to the server, in batches, from a thread of its own: the agent only puts it in a queue.

The first record of a batch waits a moment for others, so that the thread does not run against the agent's at each call.
What cannot be sent is never hidden: it is a loss of its scope, and the rollout becomes incomplete.
"""

import os
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import httpx

from leyden.exception_text import exception_text
from leyden.scope import Scope
from leyden.trust import trusted
from leyden.types import Call, Reward

__all__ = ["Recorder", "recorder"]

_CAPACITY = 10_000
_MOST = 200
_LINGER_S = 0.1
"""How long the first record of a batch waits for others."""
_TIMEOUT_S = 10.0

Record = Call | Reward | Callable[[], Call]
"""What is to be sent, or what makes it, on the recorder's thread: it may hold only what nobody changes any more."""
Item = tuple[Scope, Record]


class Recorder:
    """A bounded queue and the daemon thread that empties it; the thread starts with the first record."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start empty. So does the child of a fork: the thread is its parent's, which sends what waited until then."""
        self._waiting: queue.SimpleQueue[Item | threading.Event] = queue.SimpleQueue()
        self._hurry = threading.Event()
        """Set while somebody waits in `flush`."""
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def record(self, scope: Scope, record: Record) -> None:
        """Take a partial call or a reward of this scope; never blocks."""
        if scope.server_url is None:
            return
        if self._thread is None:
            self._start()
        if self._waiting.qsize() < _CAPACITY:  # threads that look at the same time may put in a few more
            self._waiting.put((scope, record))
        else:
            lost = record.id if isinstance(record, Call | Reward) else "what an adapter saw of a call"
            scope.losses.append(f"the capture queue of {_CAPACITY} records is full; {lost} was not recorded")

    def flush(self, scope: Scope, timeout_s: float) -> None:
        """Wait until what was recorded before has been sent; what takes longer is a loss of `scope`."""
        if self._thread is None:
            return
        sent = threading.Event()
        self._waiting.put(sent)
        self._hurry.set()
        if not sent.wait(timeout_s):
            scope.losses.append(f"the server took longer than {timeout_s:g} s to record what was captured")

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leyden-recorder", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        with httpx.Client(timeout=_TIMEOUT_S, trust_env=False, verify=trusted()) as client:
            while True:
                items, events = self._take()
                for scope, records in _by_scope(items):
                    _send(client, scope, records)
                for event in events:
                    event.set()

    def _take(self) -> tuple[list[Item], list[threading.Event]]:
        items: list[Item] = []
        events: list[threading.Event] = []
        item = self._waiting.get()
        if not isinstance(item, threading.Event):
            self._hurry.wait(_LINGER_S)
        while True:
            if isinstance(item, threading.Event):
                events.append(item)
            else:
                items.append(item)
            if len(items) >= _MOST:
                return items, events
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                self._hurry.clear()
                return items, events


def _by_scope(items: Sequence[Item]) -> list[tuple[Scope, list[Call | Reward]]]:
    scopes: dict[int, Scope] = {}
    records: dict[int, list[Call | Reward]] = defaultdict(list)
    for scope, record in items:
        made = record if isinstance(record, Call | Reward) else _made(scope, record)
        if made is not None:
            scopes[id(scope)] = scope
            records[id(scope)].append(made)
    return [(scopes[key], records[key]) for key in scopes]


def _made(scope: Scope, make: Callable[[], Call]) -> Call | None:
    try:
        return make()
    except Exception as error:  # the capture boundary: what an adapter could not word is a loss of its rollout
        scope.losses.append(f"a record could not be made: {exception_text(error)}")
        return None


def _send(client: httpx.Client, scope: Scope, records: Sequence[Call | Reward]) -> None:
    calls = [record.model_dump(mode="json", exclude_defaults=True) for record in records if isinstance(record, Call)]
    rewards = [record.model_dump(mode="json") for record in records if isinstance(record, Reward)]
    for path, name, values in (("/api/calls", "calls", calls), ("/api/rewards", "rewards", rewards)):
        if not values:
            continue
        try:
            headers = {"Authorization": f"Bearer {scope.key}"}
            response = client.post(f"{scope.server_url}{path}", json={name: values}, headers=headers)
            if response.is_client_error:
                scope.losses.append(
                    f"{len(values)} {name} were refused with {response.status_code}: {response.text[:500]}"
                )
                continue
            response.raise_for_status()
        except (httpx.HTTPError, ValueError, TypeError) as error:
            scope.losses.append(f"{len(values)} {name} were not recorded: {type(error).__name__}: {error}")


recorder = Recorder()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=recorder.begin)
