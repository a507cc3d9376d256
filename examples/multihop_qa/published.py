"""Reads MuSiQue (arXiv:2108.00573) and HotpotQA (arXiv:1809.09600): tasks, and paragraphs to search.

A file is JSON lines or, as HotpotQA's authors ship it, one JSON array. A row of another form is refused by its number.
"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

Row = tuple[dict, list[str]]


def musique(row: dict) -> Row:
    """`{"id", "question", "answer", "answer_aliases", "paragraphs": [{"title", "paragraph_text"}]}`."""
    if not row.get("answerable", True):
        raise ValueError("no paragraph answers the question; take MuSiQue's musique_ans files")
    task = {"id": row["id"], "question": row["question"], "answer": row["answer"], "aliases": row["answer_aliases"]}
    return task, [f"{part['title']}: {part['paragraph_text']}" for part in row["paragraphs"]]


def hotpotqa(row: dict) -> Row:
    """`{"_id", "question", "answer", "context": [[title, [sentence, ...]], ...]}`, or as on the Hugging Face hub
    `"id"` and `"context": {"title": [...], "sentences": [[...], ...]}`."""
    name, context = row["_id"] if "_id" in row else row["id"], row["context"]
    if isinstance(context, dict):
        context = zip(context["title"], context["sentences"], strict=True)
    task = {"id": name, "question": row["question"], "answer": row["answer"], "aliases": []}
    return task, [f"{title}: {''.join(sentences)}" for title, sentences in context]


FORMS: dict[str, Callable[[dict], Row]] = {"musique": musique, "hotpotqa": hotpotqa}


def read(path: Path, form: str, count: int, rng: random.Random) -> tuple[list[dict], list[str]]:
    """`count` tasks drawn from a file, since MuSiQue's begins with the easiest, and the paragraphs of them all.

    Raises:
        ValueError: a row that was drawn has another form.
    """
    raw = list(enumerate(rows(path), 1))
    found: list[Row] = []
    for number, row in rng.sample(raw, min(count, len(raw))):
        try:
            found.append(FORMS[form](json.loads(row) if isinstance(row, str) else row))
        except (ValueError, KeyError, TypeError) as error:
            problem = f"{path}, row {number} is not of the form {form}: {error!r}; see published.py"
            raise ValueError(problem) from error
    return [task for task, _ in found], list(dict.fromkeys(text for _, told in found for text in told))


def rows(path: Path) -> Iterator[str | dict]:
    """Its lines, or the elements of its array."""
    with path.open(encoding="utf-8") as file:
        if file.read(1) != "[":
            file.seek(0)
            yield from file
            return
        file.seek(0)
        try:
            yield from json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} begins as a JSON array and is none: {error}") from error
