"""Queries that may only read, Spider's comparison of results, both layouts of its data, and two steps of training."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from leyden.runner.reference import load_function
from leyden_trainer.testing import make_tiny_model

FOLDER = Path(__file__).resolve().parent.parent
GOLD = "SELECT name , age FROM singer WHERE age > 20"
QUESTION = {"question": "Who is older than 20?", "query": GOLD, "db_id": "music"}
SCHEMA = {
    "db_id": "music",
    "table_names_original": ["singer", "concert"],
    "column_names_original": [[-1, "*"], [0, "id"], [0, "name"], [0, "age"], [1, "singer_id"], [1, "held"]],
    "column_types": ["text", "number", "text", "number", "number", "time"],
    "primary_keys": [1],
    "foreign_keys": [[4, 1]],
}


def function(name: str):
    file, _, wanted = name.partition(":")
    return load_function(f"{FOLDER / file}:{wanted}")


def parsed(*tables: int) -> dict:
    return {"from": {"table_units": [["table_unit", table] for table in tables]}}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "0.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE singer (id, name, age)")
    connection.executemany("INSERT INTO singer VALUES (?, ?, ?)", [(1, "Ada", 30), (2, "Bob", 19), (3, "Cid", 40)])
    connection.commit()
    connection.close()
    return path


@pytest.fixture
def spider(tmp_path: Path, database: Path) -> Path:
    """A tiny folder of Spider's own form, with two databases."""
    folder = tmp_path / "spider"
    questions = [{**QUESTION, "sql": parsed(0)}]
    questions += [{**QUESTION, "query": "SELECT count(*) FROM singer", "question": "How many?", "sql": parsed(0)}]
    questions += [{**question, "db_id": "stage"} for question in questions]
    folder.mkdir()
    (folder / "tables.json").write_text(json.dumps([SCHEMA, {**SCHEMA, "db_id": "stage"}]))
    (folder / "dev.json").write_text(json.dumps(questions))
    for name in ("music", "stage"):
        (folder / "database" / name).mkdir(parents=True)
        shutil.copyfile(database, folder / "database" / name / f"{name}.sqlite")
    return folder


@pytest.fixture
def example(tmp_path: Path, spider: Path) -> Path:
    """The example in a place of its own, its tasks made from the tiny folder."""
    folder = tmp_path / "example"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("runs", "databases", ".cache", "*.jsonl", "tests"))
    for script in (["make_tasks.py", "--spider", str(spider)], ["make_demos.py"]):
        subprocess.run([sys.executable, *script], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM singer",
        "DROP TABLE singer",
        "INSERT INTO singer VALUES (4, 'Dee', 2)",
        "ATTACH 'other.sqlite' AS other",
        "PRAGMA query_only = 0",
        "SELECT 1; DELETE FROM singer",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n LIMIT 30000) SELECT x FROM n",
        "SELECT length(zeroblob(900000000))",
        "SELECT zeroblob(20000)",
        f"SELECT zeroblob(9000) FROM {', '.join(f'singer s{n}' for n in range(7))}",
        f"SELECT zeroblob(900) FROM {', '.join(f'singer s{n}' for n in range(9))} ORDER BY 1",
        "SELECT load_extension('x')",
        "not SQL",
        "SELECT '\ud800'",
        "",
        "SELECT \x00 1",
    ],
)
def test_a_query_can_neither_write_nor_hang_nor_fill_the_memory(database: Path, sql: str) -> None:
    before = database.read_bytes()
    outcome = function("execution.py:run_query")(database, sql)
    assert not outcome.rows
    assert outcome.error or sql == ""
    assert database.read_bytes() == before


@pytest.mark.parametrize(
    ("said", "sql"),
    [
        ("SELECT 1", "SELECT 1"),
        ("```sql\nSELECT 1\n```", "SELECT 1"),
        ("Here it is:\n```\nSELECT 1;\n```\nIt counts.", "SELECT 1;"),
        ("```sql SELECT 1```", "SELECT 1"),
    ],
)
def test_a_query_between_fences_is_taken_out(said: str, sql: str) -> None:
    assert function("execution.py:query_in")(said) == sql


def test_a_reader_sees_the_first_rows_or_the_error(database: Path) -> None:
    run = function("execution.py:run_query")
    assert run(database, "SELECT name, age FROM singer").shown(2, 80) == "3 rows: ('Ada', 30) ('Bob', 19)"
    assert run(database, "SELECT nome FROM singer").shown(2, 80) == "Error: no such column: nome"


@pytest.mark.parametrize(
    ("wanted", "got", "ordered", "same"),
    [
        ([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], False, True),  # rows and columns in another order
        ([(1, "a"), (2, "b")], [("b", 2), ("a", 1)], True, False),  # the gold query orders
        ([(1, "a"), (2, "b")], [("a", 1), ("b", 2)], True, True),
        ([(1,), (1,)], [(1,)], False, False),  # rows count as often as they come
        ([(1, 2), (2, 1)], [(1, 1), (2, 2)], False, False),  # the same columns, but other rows
        ([(1, 1), (2, 2)], [(1, 2), (2, 1)], False, False),
        ([(1,)], [(1, 1)], False, False),
        ([], [], True, True),
        ([], [(1,)], False, False),
        ([(1, 2.0)], [(2, 1.0)], False, True),
        ([(None, "a")], [("a", None)], False, True),
    ],
)
def test_results_are_compared_as_spiders_test_suite_does(wanted, got, ordered: bool, same: bool) -> None:
    assert function("reward.py:same_result")(wanted, got, ordered=ordered) is same


def test_all_variants_must_agree(tmp_path: Path, database: Path) -> None:
    other = tmp_path / "1.sqlite"
    shutil.copyfile(database, other)
    connection = sqlite3.connect(other)
    connection.execute("UPDATE singer SET age = 10 WHERE name = 'Cid'")
    connection.commit()
    connection.close()
    score = function("reward.py:score")
    task = {"database": str(tmp_path), "gold": "SELECT name FROM singer WHERE age > 20"}
    assert score(task, "SELECT name FROM singer WHERE age >= 30")
    assert not score(task, "SELECT name FROM singer WHERE name != 'Bob'")  # agrees on the first variant only
    assert not score(task, "SELECT nome FROM singer")


def test_spiders_own_folder_becomes_tasks_split_by_database(example: Path) -> None:
    train, heldout = (
        [json.loads(line) for line in (example / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "heldout")
    )
    assert {task["database"] for task in train}.isdisjoint(task["database"] for task in heldout)
    own = [(task["schema"], task["gold"]) for task in train if task["source"] == "spider"]
    assert own == [("singer(id, name, age)", GOLD), ("singer(id, name, age)", "SELECT count(*) FROM singer")]
    made = {task["question"]: task["gold"] for task in train if task["source"] == "template"}
    assert made["What is the average age of the singers?"] == "SELECT avg(age) FROM singer"


@pytest.mark.parametrize("name", ["Song_releaseYear", "SONG_RELEASE_YEAR", "song release year"])
def test_a_name_is_said_in_words(name: str) -> None:
    assert function("templates.py:said_as")(name) == "song release year"


def test_made_up_rows_keep_the_keys_and_hold_what_is_asked_for(tmp_path: Path) -> None:
    schema = function("spider.py:_schema")({**SCHEMA, "foreign_keys": [[4, 1]]})
    fill = function("synthetic.py:fill")
    asked = ["SELECT id FROM singer WHERE name = 'Zoe' AND age BETWEEN 31 AND 33"]
    for name in ("a", "b"):
        fill(tmp_path / f"{name}.sqlite", schema, asked, seed="0")
    run = function("execution.py:run_query")
    assert run(tmp_path / "a.sqlite", asked[0]).rows
    orphans = "SELECT * FROM concert WHERE singer_id NOT IN (SELECT id FROM singer)"
    assert run(tmp_path / "a.sqlite", orphans).rows == ()
    everything = "SELECT * FROM singer JOIN concert ON singer_id = id"
    assert run(tmp_path / "a.sqlite", everything) == run(tmp_path / "b.sqlite", everything)


def test_no_constant_answers_a_question(tmp_path: Path) -> None:
    """What a query gives that reads no table: made-up variants differ in their numbers of rows too."""
    schema = function("spider.py:_schema")(SCHEMA)
    for number in range(3):
        function("synthetic.py:fill")(tmp_path / f"{number}.sqlite", schema, [], seed=f"music {number}")
    counted = {function("execution.py:run_query")(path, "SELECT count(*) FROM singer") for path in tmp_path.iterdir()}
    assert len(counted) > 1
    question, tells_apart = function("spider.py:Question"), function("make_tasks.py:tells_apart")
    golds = ["SELECT count(*) FROM singer", "SELECT 24"]
    assert [tells_apart(question("?", "music", gold, "singer"), tmp_path) for gold in golds] == [True, False]


def test_the_databases_of_named_questions_are_held_out(tmp_path: Path, spider: Path) -> None:
    folder = tmp_path / "example"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("runs", "databases", ".cache", "*.jsonl", "tests"))
    questions = json.loads((spider / "dev.json").read_text())
    for name, database in (("train_spider", "music"), ("dev", "stage")):
        (spider / f"{name}.json").write_text(json.dumps([q for q in questions if q["db_id"] == database]))
    named = ["--questions", "train_spider.json", "--heldout-questions", "dev.json"]
    command = [sys.executable, "make_tasks.py", "--all", "--spider", str(spider), *named]
    told = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    assert "4 questions, 0 left out" in told
    for name, database in (("train", "databases/music"), ("heldout", "databases/stage")):
        tasks = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert [task["database"] for task in tasks] == [database] * 2


def test_the_agent_has_never_heard_of_leyden() -> None:
    for file in FOLDER.glob("*.py"):
        assert "leyden" not in file.read_text().lower(), file


def test_two_steps_train_those_who_draft_and_not_the_checker(example: Path) -> None:
    make_tiny_model(example / "model")
    flags = ["--model.path=model", "--model.layers=1", "--trainer.steps=2", "--trainer.tasks_per_step=2"]
    flags += ["--trainer.rollouts_per_task=2", "--warm_start.epochs=1", "--trainer.evaluate_every=2"]
    flags += ["--sampling.max_tokens=8"]
    command = [sys.executable, "-m", "leyden", "train", "cpu.toml", *flags]
    environment = {**os.environ, "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, cwd=example, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    run = example / "runs" / "text_to_sql"
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["rollouts"]) == (2, 8)
    assert summary["eval_base"] is not None
    shown = [sys.executable, "-m", "leyden", "show", "text_to_sql-s1-g0-r0", "--store", str(run / "store.sqlite")]
    parts = json.loads(subprocess.run([*shown, "--json"], capture_output=True, text=True, check=True).stdout)
    agents = {call["id"]: call["structure"]["agent"][-1] for call in parts["calls"]}
    assert {"writer", "checker"} <= set(agents.values())
    assert {agents[credit["call_id"]] for credit in parts["credits"]} == set(agents.values()) - {"checker"}
