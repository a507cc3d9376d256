"""Execution accuracy as Spider's test suite has it: on every variant of the database the query gives the gold's result.

Rows count as often as they come; their order counts if the gold query orders; columns may stand in any order. DISTINCT
counts, as with the test suite's --keep_distinct; without it the suite strikes it from both queries.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from execution import run_query

FOLDER = Path(__file__).parent


def score(task: dict, result: str) -> bool:
    """Whether `result` is a query that gives what the gold query gives."""
    variants = sorted((FOLDER / task["database"]).glob("*.sqlite"))
    if not variants:
        raise FileNotFoundError(f"no database in {FOLDER / task['database']}; run make_tasks.py")
    return all(agree(variant, task["gold"], result) for variant in variants)


def agree(database: Path, gold: str, sql: str) -> bool:
    """Whether both queries give the same on one database."""
    wanted, got = run_query(database, gold), run_query(database, sql)
    if wanted.error:
        raise ValueError(f"the gold query {gold!r} does not run on {database}: {wanted.error}")
    return not got.error and same_result(wanted.rows, got.rows, ordered="order by" in gold.lower())


def same_result(wanted: Sequence[tuple], got: Sequence[tuple], *, ordered: bool) -> bool:
    """Whether some order of `got`'s columns makes it `wanted`, as lists if `ordered`, else as bags of rows."""
    if not wanted and not got:
        return True
    if len(wanted) != len(got) or len(wanted[0]) != len(got[0]):
        return False
    form = list if ordered else Counter
    width = len(wanted[0])
    first_columns = [form(row[:n] for row in wanted) for n in range(width + 1)]

    def completes(chosen: tuple[int, ...]) -> bool:
        """Whether the columns chosen so far, and some order of the others, are `wanted`'s."""
        if form(tuple(row[c] for c in chosen) for row in got) != first_columns[len(chosen)]:
            return False
        return len(chosen) == width or any(completes((*chosen, c)) for c in range(width) if c not in chosen)

    return completes(())
