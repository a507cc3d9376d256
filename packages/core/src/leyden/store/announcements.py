"""Tells the other servers on one PostgreSQL database what a commit changed, by LISTEN and NOTIFY. No polling.

What is told is only that something changed; who hears it reads the database. What was missed while the connection was
gone is made up for by waking everybody once it is back.
"""

import json
import selectors
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, text

from leyden.types import new_id

__all__ = ["Announcements", "Heard"]

_CHANNEL = "leyden"
_PAUSE_S = 1.0  # before listening is tried again
_MOST_BYTES = 7_000  # of one notification; PostgreSQL takes less than 8,000
_TELL = text(f"SELECT pg_notify('{_CHANNEL}', :told)")

Heard = Callable[[Collection[str] | None, float | None], None]
"""Called with the topics that changed (None: any may have), and when the next lease runs out (None: no lease does)."""


class Announcements:
    """Listens in a thread until it is closed; `heard` is called on that thread."""

    def __init__(self, engine: Engine, heard: Heard) -> None:
        self._engine = engine
        self._heard = heard
        self._me = new_id()
        self._closing = threading.Event()
        self._bell, self._rung = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="leyden-store-listener", daemon=True)
        self._thread.start()

    def tell(self, connection: Connection, topics: Collection[str], next_lease: float | None) -> None:
        """Announce with the commit of the connection's transaction; who is rolled back announces nothing."""
        told = [{"told": json.dumps([self._me, next_lease, some])} for some in _portions(topics)]
        connection.execute(_TELL, told)

    def close(self) -> None:
        """Stop listening; again is a no-op."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._bell.send(b"\0")
        self._thread.join()
        self._bell.close()
        self._rung.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(f"LISTEN {_CHANNEL}")
                    self._heard(None, 0.0)  # whatever was told while nobody listened
                    self._listen(connection)
            except psycopg.Error:
                self._closing.wait(_PAUSE_S)  # the database is away: the writer says so to those who ask

    def _connect(self) -> "psycopg.Connection[Any]":
        arguments, named = self._engine.dialect.create_connect_args(self._engine.url)
        return psycopg.connect(*arguments, **named, autocommit=True)

    def _listen(self, connection: "psycopg.Connection[Any]") -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(self._rung, selectors.EVENT_READ)
            while not self._closing.is_set():
                connection.pgconn.consume_input()
                while (notification := connection.pgconn.notifies()) is not None:
                    self._hear(notification.extra)
                selector.select()

    def _hear(self, told: bytes) -> None:
        teller, next_lease, topics = json.loads(told)
        if teller != self._me:
            self._heard(topics, next_lease)


def _portions(topics: Collection[str]) -> Iterator[list[str]]:
    """The topics in lists that fit into a notification."""
    some: list[str] = []
    size = 0
    for topic in topics:
        cost = len(json.dumps(topic)) + 2
        if some and size + cost > _MOST_BYTES:
            yield some
            some, size = [], 0
        some.append(topic)
        size += cost
    yield some
