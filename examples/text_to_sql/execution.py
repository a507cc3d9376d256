"""Runs a query that nobody has checked: it can read one database, for so many steps of SQLite's machine, and no more.

Steps, not seconds, so that the same query ends the same way on a busy machine.
"""

import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path

MAX_STEPS = 2_000_000
MAX_ROWS = 20_000
MAX_BYTES = 10_000
"""Of one value, of a row, and of the query itself. What ORDER BY sorts may go to a disk; the steps bound the rows."""
MAX_TOTAL = 10_000_000
"""Characters and bytes of all rows."""
FENCE = re.compile(r"```(?:sql|sqlite)?\s(.*?)```", re.DOTALL)
READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}


@dataclass(frozen=True)
class Outcome:
    """Rows, or the error in SQLite's words."""

    rows: tuple[tuple, ...] = ()
    error: str = ""

    def shown(self, num_rows: int, num_characters: int) -> str:
        """For a reader with little room."""
        if self.error:
            return f"Error: {self.error}"[:num_characters]
        rows = " ".join(str(row) for row in self.rows[:num_rows])
        return f"{len(self.rows)} rows: {rows}"[:num_characters]


def query_in(said: str) -> str:
    """An answer's query, which larger models put between fences."""
    fenced = FENCE.search(said)
    return fenced[1].strip() if fenced else said


def run_query(database: Path, sql: str) -> Outcome:
    """One statement that reads. Whatever is wrong with it is in the outcome."""
    connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
        connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, MAX_BYTES)
        connection.set_authorizer(_may_only_read)
        connection.set_progress_handler(lambda: 1, MAX_STEPS)
        return _fetched(connection.execute(sql))
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        return Outcome(error=str(error) or type(error).__name__)
    finally:
        connection.close()


def _fetched(cursor: sqlite3.Cursor) -> Outcome:
    rows, total = [], 0
    for row in cursor:
        rows.append(row)
        total += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(rows) > MAX_ROWS or total > MAX_TOTAL:
            return Outcome(error=f"more than {MAX_ROWS} rows, or {MAX_TOTAL} bytes")
    return Outcome(tuple(rows))


def _may_only_read(action: int, *_: object) -> int:
    return sqlite3.SQLITE_OK if action in READING else sqlite3.SQLITE_DENY
