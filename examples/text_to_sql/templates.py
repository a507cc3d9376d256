"""Easy questions over a schema from ten templates, for a model that is too small for most of Spider's own."""

import random
import re
from collections.abc import Iterator

from spider import Column, Question

TEMPLATES = {
    "How many {things} are there?": "SELECT count(*) FROM {table}",
    "Show the {a_said} of all {things}.": "SELECT {a} FROM {table}",
    "List the {a_said} and {b_said} of each of the {things}.": "SELECT {a} , {b} FROM {table}",
    "What are the different {b_said} values of the {things}?": "SELECT DISTINCT {b} FROM {table}",
    "How many {things} are there for each {b_said}?": "SELECT {b} , count(*) FROM {table} GROUP BY {b}",
    "What is the average {n_said} of the {things}?": "SELECT avg({n}) FROM {table}",
    "What is the highest {n_said} among the {things}?": "SELECT max({n}) FROM {table}",
    "List the {a_said} of the {things} in order of {n_said}.": "SELECT {a} FROM {table} ORDER BY {n}",
    "How many {things} have a {n_said} of more than 20?": "SELECT count(*) FROM {table} WHERE {n} > 20",
    "What is the {a_said} of the {things} whose {n_said} is less than 60?": "SELECT {a} FROM {table} WHERE {n} < 60",
}


def easy_questions(database: str, schema: dict[str, list[Column]]) -> Iterator[Question]:
    """One of each template for each table that has the columns for it; the same ones always."""
    rng = random.Random(database)
    for table, columns in schema.items():
        numbers = [c for c in columns if c.type == "number" and not (c.primary or c.refers_to or _is_key(c))]
        texts = [c for c in columns if c.type == "text"]
        for text, gold in TEMPLATES.items():
            if ("{n}" in gold and not numbers) or ("{b}" in gold and len(texts) < 2) or ("{a}" in gold and not texts):
                continue
            a, b = rng.sample(texts, 2) if len(texts) > 1 else (texts * 2 or columns * 2)[:2]
            n = rng.choice(numbers or columns)
            names = {"table": table, "a": a.name, "b": b.name, "n": n.name}
            said = {"things": _things(table), "a_said": said_as(a.name), "b_said": said_as(b.name)}
            filled = {**names, **said, "n_said": said_as(n.name)}
            yield Question(text.format(**filled), database, gold.format(**filled), table)


def said_as(name: str) -> str:
    """`Song_releaseYear` as one would say it."""
    return " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", name)).lower()


def _things(table: str) -> str:
    said = said_as(table)
    return said if said.endswith("s") else f"{said}s"


def _is_key(column: Column) -> bool:
    return column.name.lower().endswith("id")
