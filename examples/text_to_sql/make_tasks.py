"""Writes databases/, train.jsonl and heldout.jsonl: Spider's questions, six of its databases held out altogether.

By default for a small model: the dev set's short questions over one small table, as many from templates over the same
schemas, and made-up rows in three variants.
"""

import argparse
import json
import random
import shutil
from pathlib import Path

from execution import run_query
from spider import Column, Question, Spider, dev_set, read_spider
from synthetic import fill
from templates import easy_questions

FOLDER = Path(__file__).parent
VARIANTS = 3
HELDOUT_DATABASES = 6
MOST_CHARACTERS, MOST_COLUMNS = 60, 8
"""Of a short question's gold query, and of its table."""


def written_schema(tables: dict[str, list[Column]], only: str | None) -> str:
    """`singer(Singer_ID, Name)`, a table a line; the whole schema also says what refers to what."""
    chosen = {only: tables[only]} if only else tables
    lines = [f"{table}({', '.join(column.name for column in columns)})" for table, columns in chosen.items()]
    for table, columns in chosen.items() if not only else ():
        lines += [f"{table}.{c.name} = {'.'.join(c.refers_to)}" for c in columns if c.refers_to]
    return "\n".join(lines)


def is_short(question: Question, spider: Spider) -> bool:
    """Fit for a small model: one table, not too wide, and a short query."""
    if question.table is None or len(question.gold) > MOST_CHARACTERS:
        return False
    return len(spider.schemas[question.database].get(question.table, ())) in range(1, MOST_COLUMNS + 1)


def tells_apart(question: Question, folder: Path) -> bool:
    """Whether the gold query runs on all variants, and a query that does not read the data cannot give what it gives.

    One database alone must give more than nothing; of several some must differ in what they give.
    """
    outcomes = [run_query(variant, question.gold) for variant in sorted(folder.glob("*.sqlite"))]
    if any(outcome.error for outcome in outcomes):
        return False
    given = {outcome.rows for outcome in outcomes}
    return len(given) > 1 or (len(outcomes) == 1 and given.isdisjoint([(), ((0,),), ((None,),)]))


def make_databases(spider: Spider, folder: Path) -> None:
    """`VARIANTS` databases of each schema, in a folder of its name."""
    for name, schema in spider.schemas.items():
        queries = [question.gold for question in spider.questions if question.database == name]
        for number in range(VARIANTS):
            fill(folder / name / f"{number}.sqlite", schema, queries, seed=f"{name} {number}")


def copy_databases(spider: Spider, source: Path, folder: Path) -> None:
    """Those of Spider's own layout, database/NAME/*.sqlite: one each, or a test suite's many."""
    for name in spider.schemas:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file in (source / "database" / name).glob("*.sqlite"):
            shutil.copyfile(file, folder / name / file.name)


def drawn(spider: Spider) -> set[str]:
    """Databases to hold out: the same ones always."""
    names = sorted(spider.schemas)
    random.Random("heldout").shuffle(names)
    return set(names[: min(HELDOUT_DATABASES, len(names) // 2)])


def tasks(spider: Spider, databases: Path, *, short: bool) -> list[dict]:
    """All usable questions as tasks; with `short` those from templates too."""
    found = []
    asked = [("spider", question) for question in spider.questions]
    if short:
        for name, schema in spider.schemas.items():
            asked += [("template", question) for question in easy_questions(name, schema)]
        asked = [(source, question) for source, question in asked if is_short(question, spider)]
    for source, question in asked:
        if not tells_apart(question, databases / question.database):
            continue
        schema = written_schema(spider.schemas[question.database], question.table if short else None)
        place = f"{databases.name}/{question.database}"
        task = {"question": question.text, "schema": schema, "database": place, "gold": question.gold}
        found.append({**task, "source": source})
    print(f"{len(asked)} questions, {len(asked) - len(found)} left out: the gold query fails, or needs no data")
    return found


def write(path: Path, chosen: list[dict]) -> None:
    """One task a line, each once."""
    unique = {json.dumps(task): task for task in chosen}.values()
    path.write_text("".join(json.dumps({"id": f"{path.stem}-{n}", **task}) + "\n" for n, task in enumerate(unique)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spider", type=Path, help="Spider's own folder, with database/; default: the dev set alone")
    parser.add_argument("--questions", nargs="+", default=["dev.json"], help="files of questions in it")
    parser.add_argument("--all", action="store_true", help="questions of any length, with whole schemas")
    parser.add_argument("--heldout-questions", nargs="+", default=[], help="hold out these files' databases")
    parser.add_argument("--heldout", type=int, default=96, help="at most so many held-out tasks, Spider's own first")
    arguments = parser.parse_args()
    source = arguments.spider or dev_set(FOLDER / ".cache")
    kept = tuple(arguments.heldout_questions)
    spider = read_spider(source, (*arguments.questions, *kept))
    databases = FOLDER / "databases"
    shutil.rmtree(databases, ignore_errors=True)  # those of another source would be asked too
    if arguments.spider:
        copy_databases(spider, source, databases)
    else:
        make_databases(spider, databases)
    names = read_spider(source, kept).schemas if kept else drawn(spider)
    apart = {f"databases/{name}" for name in names}
    made = tasks(spider, databases, short=not arguments.all)
    heldout = [task for task in made if task["database"] in apart]
    random.Random("heldout").shuffle(heldout)
    heldout.sort(key=lambda task: task["source"])  # Spider's own first: they are fewer
    train = [task for task in made if task["database"] not in apart]
    if not train or not heldout:
        raise SystemExit(
            f"{len(train)} questions of {source} to train on and {len(heldout)} held out; expected some of each, and "
            "its database/NAME/*.sqlite"
        )
    write(FOLDER / "train.jsonl", train)
    write(FOLDER / "heldout.jsonl", heldout[: arguments.heldout])
    taken = min(len(heldout), arguments.heldout)
    print(f"{len(train)} to train on, {taken} of {len(heldout)} held out, doubles among them")


if __name__ == "__main__":
    main()
