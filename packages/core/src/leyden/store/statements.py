"""Statements that run for every model call or rollout: compiled once, then given to the driver as they are.

SQLAlchemy's own execution builds each statement and processes each value of each row in Python, which costs more than
the database's work. Values must be what the driver takes: text, numbers, bytes, None. Nothing begins a transaction.
"""

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Dialect, Table, bindparam, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import Executable

__all__ = ["add", "all_rows", "among", "in_widths", "insert_rows", "rows_with", "run"]

_WIDTHS = (1, 8, 64, 512)  # of an IN list: few, so that each is compiled once; a shorter list is filled up by repeats


class _Compiled:
    """A statement as the driver's text, and what makes named tuples of its rows once it gave some."""

    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        element: Any = statement  # its `compile` has no types
        compiled = element.compile(dialect=dialect)
        self.text = str(compiled)
        self._order: list[str] | None = compiled.positiontup
        asked = {name for name, bind in compiled.binds.items() if bind.required}
        self._own: dict[str, Any] = {name: value for name, value in compiled.params.items() if name not in asked}
        self._make: Callable[[Iterable[Any]], Any] | None = None

    def values(self, named: dict[str, Any]) -> Any:
        whole = {**self._own, **named} if self._own else named
        return whole if self._order is None else tuple([whole[name] for name in self._order])

    def rows(self, connection: Connection, values: Any) -> list[Any]:
        """Run it with values, or with each of a list of them; the rows that it gives."""
        if connection.dialect.name == "sqlite":
            return self._rows_of_sqlite(connection, values)
        result = connection.exec_driver_sql(self.text, values)
        return self._named(result.keys(), result) if result.returns_rows else []

    def _rows_of_sqlite(self, connection: Connection, values: Any) -> list[Any]:
        # Past SQLAlchemy, whose result costs more than what SQLite does to find a row by its key.
        driver: Any = connection.connection.dbapi_connection
        try:
            if isinstance(values, list):
                driver.executemany(self.text, values)
                return []
            cursor = driver.execute(self.text, values)
            described = cursor.description
            return [] if described is None else self._named((column[0] for column in described), cursor)
        except sqlite3.Error as error:
            told: Any = DBAPIError.instance(self.text, None, error, sqlite3.Error, dialect=connection.dialect)
            raise told from error

    def _named(self, names: Iterable[str], rows: Iterable[Any]) -> list[Any]:
        if self._make is None:
            self._make = namedtuple("_Row", list(names))._make  # pyright: ignore[reportUntypedNamedTuple]
        return list(map(self._make, rows))


@cache
def _kept(statement: Executable, dialect: Dialect) -> _Compiled:
    return _Compiled(statement, dialect)


def run(connection: Connection, statement: Executable, named: dict[str, Any] | Sequence[dict[str, Any]]) -> list[Any]:
    """Run a statement that a module made once (it is kept), with values for its `bindparam`s, or for each of many;
    the rows that it gives."""
    kept = _kept(statement, connection.dialect)
    return kept.rows(connection, kept.values(named) if isinstance(named, dict) else [kept.values(one) for one in named])


@cache
def _insert(table: Table, dialect: Dialect) -> _Compiled:
    return _Compiled(insert(table).values({column.name: bindparam(column.name) for column in table.columns}), dialect)


@cache
def _select(
    wanted: tuple[Column[Any], ...], key: Column[Any], width: int, also: ColumnElement[bool] | None, dialect: Dialect
) -> _Compiled:
    chosen = select(*wanted).where(among(key, width))
    return _Compiled(chosen if also is None else chosen.where(also), dialect)


@cache
def _whole(table: Table, dialect: Dialect) -> _Compiled:
    return _Compiled(select(table), dialect)


@cache
def _add(counter: Column[Any], key: Column[Any], dialect: Dialect) -> _Compiled:
    table: Any = counter.table
    changed = update(table).where(key == bindparam("key")).values({counter.name: counter + bindparam("change")})
    return _Compiled(changed, dialect)


def insert_rows(connection: Connection, table: Table, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows that have a value for every column."""
    if rows:
        compiled = _insert(table, connection.dialect)
        compiled.rows(connection, [compiled.values(row) for row in rows])


def all_rows(connection: Connection, table: Table) -> list[Any]:
    """The rows of a small table."""
    compiled = _whole(table, connection.dialect)
    return compiled.rows(connection, compiled.values({}))


def among(key: Column[Any], width: int) -> ColumnElement[bool]:
    """That `key` is one of as many values, which `in_widths` gives."""
    return key.in_([bindparam(f"p{place}") for place in range(width)])


def in_widths(values: Sequence[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The values, some at a time, for statements with `among`: the width of each, and its parameters."""
    for start in range(0, len(values), _WIDTHS[-1]):
        some = values[start : start + _WIDTHS[-1]]
        width = next(width for width in _WIDTHS if len(some) <= width)
        filled = [*some, *[some[-1]] * (width - len(some))]
        yield width, {f"p{place}": value for place, value in enumerate(filled)}


def rows_with(
    connection: Connection,
    wanted: tuple[Column[Any], ...],
    key: Column[Any],
    values: Sequence[Any],
    also: ColumnElement[bool] | None = None,
) -> list[Any]:
    """The wanted columns of the rows whose `key` is among the values, and `also` (made once, by a module) holds."""
    found: list[Any] = []
    for width, named in in_widths(values):
        compiled = _select(wanted, key, width, also, connection.dialect)
        found += compiled.rows(connection, compiled.values(named))
    return found


def add(connection: Connection, counter: Column[Any], key: Column[Any], changes: Sequence[tuple[Any, int]]) -> None:
    """Add each change to the counter of the row with that key."""
    if changes:
        compiled = _add(counter, key, connection.dialect)
        named = [{"key": value, "change": change} for value, change in changes]
        compiled.rows(connection, [compiled.values(one) for one in named])
