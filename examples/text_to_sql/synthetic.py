"""Fills a schema with made-up rows that keep its keys, and among which the constants of the gold queries occur.

Several seeds give several variants of a database; a wrong query that agrees with the gold on one seldom does on all.
The number of rows is drawn for each table too, or a constant would be the right answer to "how many".
"""

import random
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from spider import Column

WORDS = [
    "red",
    "blue",
    "green",
    "north",
    "south",
    "east",
    "west",
    "alpha",
    "beta",
    "gamma",
    "stone",
    "river",
    "lake",
    "hill",
]
COMPARED = re.compile(
    r"""(\w+)\s*(?:!=|<>|>=|<=|=|>|<|\bnot\s+like\b|\blike\b|\bbetween\b)\s*("[^"]*"|'[^']*'|-?\d+(?:\.\d+)?)"""
    r"""(?:\s+and\s+(-?\d+(?:\.\d+)?)(?!\s*[=<>]))?""",
    re.IGNORECASE,
)
FEWEST_ROWS, MOST_ROWS = 20, 40
Value = str | int | float


def constants(queries: Iterable[str]) -> dict[str, list[Value]]:
    """By lower-case column name what the queries compare it with; beside a number, its neighbours."""
    found: dict[str, set[Value]] = defaultdict(set)
    for query in queries:
        for column, *values in COMPARED.findall(query):
            for value in filter(None, values):
                found[column.lower()] |= _readings(value)
    return {column: sorted(values, key=str) for column, values in found.items()}


def _readings(literal: str) -> set[Value]:
    if literal[0] in "\"'":
        return {literal[1:-1].replace("%", "")}
    number = float(literal)
    number = int(number) if number.is_integer() else number
    return {number - 1, number, number + 1}


def fill(path: Path, schema: dict[str, list[Column]], queries: Iterable[str], *, seed: str) -> None:
    """Write a database of `schema`; the same rows for the same seed."""
    rng, known = random.Random(seed), constants(queries)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    filled: dict[tuple[str, str], list[Value]] = {}
    for table in _parents_first(schema):
        columns, num_rows = schema[table], rng.randint(FEWEST_ROWS, MOST_ROWS)
        for column in columns:
            known_here = known.get(column.name.lower(), [])
            parent = filled.get(column.refers_to) if column.refers_to else None
            filled[table, column.name] = (
                [rng.choice(parent) for _ in range(num_rows)] if parent else _values(column, known_here, rng, num_rows)
            )
        named = ", ".join(f'"{column.name}" {"NUMERIC" if column.type == "number" else "TEXT"}' for column in columns)
        connection.execute(f'CREATE TABLE "{table}" ({named})')
        rows = zip(*(filled[table, column.name] for column in columns), strict=True)
        connection.executemany(f'INSERT INTO "{table}" VALUES ({", ".join("?" * len(columns))})', rows)
    connection.commit()
    connection.close()


def _parents_first(schema: dict[str, list[Column]]) -> list[str]:
    """Tables after those that they refer to; a cycle is broken at its first table."""
    order: list[str] = []
    while len(order) < len(schema):
        left = [table for table in schema if table not in order]
        free = [
            table
            for table in left
            if all(c.refers_to is None or c.refers_to[0] in (*order, table) for c in schema[table])
        ]
        order.append((free or left)[0])
    return order


def _values(column: Column, known: list[Value], rng: random.Random, num_rows: int) -> list[Value]:
    if column.type == "number":
        return _numbers(column, [value for value in known if not isinstance(value, str)], rng, num_rows)
    texts = [str(value) for value in known]
    if column.type == "time" and not texts:
        return [f"20{rng.randint(10, 20)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}" for _ in range(num_rows)]
    made = [f"{rng.choice(WORDS)} {rng.choice(WORDS)}" for _ in range(6)]
    if column.primary:
        return [*texts, *(f"{rng.choice(made)} {n}" for n in range(num_rows))][:num_rows]
    return [rng.choice(texts) if texts and rng.random() < 0.6 else rng.choice(made) for _ in range(num_rows)]


def _numbers(column: Column, known: list[int | float], rng: random.Random, num_rows: int) -> list[Value]:
    if column.primary:
        return list(range(1, num_rows + 1))
    highest = int(max([100, *(abs(value) * 2 for value in known)]))
    return [rng.choice(known) if known and rng.random() < 0.5 else rng.randint(0, highest) for _ in range(num_rows)]
