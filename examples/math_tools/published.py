"""Reads published word problems that a user has: Calc-X (arXiv:2305.15017) and GSM8K (arXiv:2110.14168), as JSON lines.

Each line becomes a task; one of another form is refused by file and line.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path


def calc_x(row: dict) -> dict:
    """`{"id", "question", "chain", "result", "result_float"}`: beside a result like "3/4" stands its value."""
    result = str(row["result"])
    if not is_number(result) and row.get("result_float") is not None:
        result = str(row["result_float"])
    return {"id": str(row["id"]), "question": row["question"], "answer": result}


def gsm8k(row: dict) -> dict:
    """`{"question", "answer"}`: the answer's last line is `#### 1,234`."""
    _, mark, number = row["answer"].rpartition("####")
    if not mark or not is_number(number):
        raise ValueError("the answer does not end in #### and a number")
    return {"question": row["question"], "answer": number.strip().replace(",", "")}


FORMS: dict[str, Callable[[dict], dict]] = {"calc-x": calc_x, "gsm8k": gsm8k}


def read(path: Path, form: str) -> Iterator[dict]:
    """The tasks of a file, with ids.

    Raises:
        ValueError: a line has another form.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield {"id": f"{path.stem}-{number}", **FORMS[form](json.loads(line))}
            except (ValueError, KeyError, TypeError) as error:
                problem = f"{path}, line {number} is not of the form {form}: {error!r}; see published.py"
                raise ValueError(problem) from error


def is_number(text: str) -> bool:
    try:
        float(text.replace(",", ""))
    except ValueError:
        return False
    return True
