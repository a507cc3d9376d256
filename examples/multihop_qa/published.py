"""Reads MuSiQue (arXiv:2108.00573) and HotpotQA (arXiv:1809.09600) as JSON lines: tasks, and paragraphs to search.

A line of another form is refused by file and line.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

Row = tuple[dict, list[str]]


def musique(row: dict) -> Row:
    """`{"id", "question", "answer", "answer_aliases", "paragraphs": [{"title", "paragraph_text"}]}`."""
    task = {"id": row["id"], "question": row["question"], "answer": row["answer"], "aliases": row["answer_aliases"]}
    return task, [f"{part['title']}: {part['paragraph_text']}" for part in row["paragraphs"]]


def hotpotqa(row: dict) -> Row:
    """`{"_id", "question", "answer", "context": [[title, [sentence, ...]], ...]}`."""
    task = {"id": row["_id"], "question": row["question"], "answer": row["answer"], "aliases": []}
    return task, [f"{title}: {''.join(sentences)}" for title, sentences in row["context"]]


FORMS: dict[str, Callable[[dict], Row]] = {"musique": musique, "hotpotqa": hotpotqa}


def read(path: Path, form: str, count: int) -> tuple[list[dict], list[str]]:
    """The first `count` tasks of a file, and the different paragraphs of them all.

    Raises:
        ValueError: a line has another form.
    """
    tasks: list[dict] = []
    paragraphs: dict[str, None] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(itertools.islice(lines, count), 1):
            try:
                task, told = FORMS[form](json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                problem = f"{path}, line {number} is not of the form {form}: {error!r}; see published.py"
                raise ValueError(problem) from error
            tasks.append(task)
            paragraphs.update(dict.fromkeys(told))
    return tasks, list(paragraphs)
