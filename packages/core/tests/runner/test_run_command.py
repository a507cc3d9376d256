"""`leyden run` as a user types it: real processes, a real gateway, the real openai client in the agent."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leyden.server.serve import BackgroundServer
from leyden.store import SqlStore
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Rollout

AGENT = """
import asyncio, os, threading
import openai

client = openai.OpenAI(max_retries=0)

def solve(task):
    print("working")
    if task.get("raise"):
        raise ValueError("the agent cannot do this")
    if task.get("hang"):
        threading.Event().wait()
    if task.get("gate"):
        with open("started", "w") as told:
            told.write(task["gate"] + "\\n")
        return open(task["gate"]).read()
    if task.get("die"):
        os._exit(3)
    if task.get("peek"):
        return os.environ.get("LEYDEN_KEY", "no key here")
    if task.get("stream"):
        messages = [{"role": "user", "content": task["say"]}]
        return "".join(c.choices[0].delta.content for c in client.chat.completions.create(
            model="gpt", messages=messages, stream=True) if c.choices)
    answer = client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": task["say"]}])
    return answer.choices[0].message.content

def solve_with_anthropic(task):
    import anthropic

    client = anthropic.Anthropic(max_retries=0)
    answer = client.messages.create(
        model="claude", max_tokens=9, messages=[{"role": "user", "content": task["say"]}]
    )
    return answer.content[0].text

async def solve_async(task):
    await asyncio.sleep(0)
    return task["say"]
"""
REWARD = """
def score(task, result):
    wanted = task.get("score", "compare")
    if wanted == "raise":
        raise KeyError("no such answer")
    if wanted == "nan":
        return float("nan")
    if wanted == "infinite":
        return float("inf")
    if wanted == "none":
        return None
    if wanted in ("true", "false"):
        return wanted == "true"
    return result == "good"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "reward.py").write_text(REWARD)
    return tmp_path


def environment() -> dict[str, str]:
    """Without a key of the machine's."""
    return {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "leyden", *arguments]


def leyden(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, env=environment(), check=False
    )


def write_tasks(folder: Path, tasks: list[dict[str, Any]]) -> None:
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))


def rollouts_of(folder: Path) -> list[Rollout]:
    (path,) = folder.glob("runs/*/store.sqlite")

    async def read() -> list[Rollout]:
        store = SqlStore.open(path)
        page = await store.rollouts(limit=1000)
        await store.close()
        return list(page.rollouts)

    return asyncio.run(read())


def run(
    folder: Path, tasks: list[dict[str, Any]], *more: str, agent: str = "agent.py:solve"
) -> tuple[str, list[Rollout]]:
    write_tasks(folder, tasks)
    with FakeServer(lambda body, headers: Reply("good")) as policy:
        model = ("--model-url", policy.url, "--model", "fake")
        done = leyden(folder, "run", agent, "--tasks", "tasks.jsonl", "--reward", "reward.py:score", *model, *more)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    return done.stdout, rollouts_of(folder)


def test_an_agent_is_run_scored_listed_and_shown(folder: Path) -> None:
    out, _ = run(folder, [{"say": "hi", "id": "one"}, {"peek": 1}])
    assert "2 rollouts: 2 succeeded" in out
    assert "mean reward 0.500 over 2 complete rollouts" in out
    rollouts = json.loads(leyden(folder, "rollouts", "--json").stdout)["rollouts"]
    assert [(r["task_id"], r["status"], r["result"]) for r in rollouts] == [
        ("one", "succeeded", "good"),
        ("2", "succeeded", "no key here"),
    ]
    shown = leyden(folder, "show", rollouts[0]["id"])
    assert "unstructured  ok" in shown.stdout
    assert "reward 1  (score, by the grader)" in shown.stdout
    parts = json.loads(leyden(folder, "show", rollouts[0]["id"], "--json").stdout)
    assert parts["calls"][0]["attempts"][0]["choices"][0]["token_ids"]


def test_async_agents_and_a_process_for_each_rollout(folder: Path) -> None:
    tasks = [{"say": "x"}] * 2
    _, rollouts = run(folder, tasks, "--isolation", "process", agent="agent.py:solve_async")
    assert [rollout.status for rollout in rollouts] == ["succeeded"] * 2


def test_isolated_rollouts_are_routed_too(folder: Path) -> None:
    _, (rollout,) = run(folder, [{"say": "x"}], "--isolation", "process")
    assert (rollout.status, rollout.result) == ("succeeded", "good")


def test_isolated_rollouts_on_anthropics_client_are_routed_and_none_of_the_users_secrets_go_with_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "a-secret")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "Authorization: Bearer a-secret")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    _, rollouts = run(folder, [{"say": "x"}] * 2, "--isolation", "process", agent="agent.py:solve_with_anthropic")
    assert [(r.status, r.result) for r in rollouts] == [("succeeded", "good")] * 2


def test_what_the_agent_does_wrong_is_data(folder: Path) -> None:
    out, rollouts = run(folder, [{"raise": 1}, {"hang": 1}], "--timeout", "1", "--on-failure", "-0.5")
    assert [(r.status, r.failure and r.failure.kind) for r in rollouts] == [
        ("failed", "agent_error"),
        ("failed", "timeout"),
    ]
    assert {rollout.attempt for rollout in rollouts} == {1}
    assert "mean reward -0.500 over 2 complete rollouts" in out


def test_a_worker_that_dies_is_tried_again_and_then_incomplete(folder: Path) -> None:
    _, (rollout,) = run(folder, [{"die": 1}])
    assert (rollout.status, rollout.attempt) == ("incomplete", 3)
    assert "the worker process ended with exit status 3" in rollout.incomplete[0]


def test_a_bad_reward_makes_its_own_rollout_incomplete_and_true_and_false_are_good_ones(folder: Path) -> None:
    reasons = {
        "raise": "the reward function score raised KeyError: 'no such answer'",
        "nan": "a reward must be finite, got nan",
        "infinite": "a reward must be finite, got inf",
        "none": "the reward function score returned None",
    }
    out, rollouts = run(folder, [{"say": "x", "score": name} for name in (*reasons, "true", "false")])
    assert [rollout.status for rollout in rollouts] == ["incomplete"] * 4 + ["succeeded"] * 2
    for rollout, reason in zip(rollouts, reasons.values(), strict=False):
        assert any(reason in told for told in rollout.incomplete)
        assert rollout.result == "good"
    assert "mean reward 0.500 over 2 complete rollouts" in out


def test_without_a_reward_a_rollout_is_incomplete_and_says_what_to_do(folder: Path) -> None:
    write_tasks(folder, [{"say": "x"}])
    with FakeServer([Reply("good")]) as policy:
        model = ("--model-url", policy.url, "--model", "fake")
        done = leyden(folder, "run", "agent.py:solve", "--tasks", "tasks.jsonl", *model)
    assert "1 x it has no reward: name a reward function, or call leyden.reward(...) in the agent" in done.stdout
    assert rollouts_of(folder)[0].result == "good"


def test_a_prompt_too_long_is_data_and_a_policy_that_dies_is_tried_again(folder: Path) -> None:
    def answer(body: dict[str, Any], headers: object) -> Reply:
        said = body["messages"][0]["content"]
        if said == "long":
            return Reply(status=400, error={"message": "This model's maximum context length is 8 tokens."})
        return Reply("good", cut_after=1) if said == "cut" else Reply("good")

    tasks = [{"say": "long"}, {"say": "cut"}, {"say": "x"}, {"say": "cut", "stream": 1}]
    write_tasks(folder, tasks)
    with FakeServer(answer) as policy:
        model = ("--model-url", policy.url, "--model", "fake")
        done = leyden(folder, "run", "agent.py:solve", "--tasks", "tasks.jsonl", "--reward", "reward.py:score", *model)
    assert "Traceback" not in done.stderr
    long, cut, good, stream = rollouts_of(folder)
    assert (long.status, long.attempt, long.failure and long.failure.kind) == ("failed", 1, "context_overflow")
    assert (good.status, good.result) == ("succeeded", "good")
    for lost in (cut, stream):
        assert (lost.status, lost.attempt, lost.failure and lost.failure.kind) == ("incomplete", 3, "infrastructure")
        assert "3 of at most 3 attempts were lost" in lost.incomplete[0]


def test_a_policy_that_is_down_is_named_with_what_to_do(folder: Path) -> None:
    write_tasks(folder, [{"say": "x"}])
    model = ("--model-url", "http://127.0.0.1:9/v1", "--model", "fake")
    done = leyden(folder, "run", "agent.py:solve", "--tasks", "tasks.jsonl", "--reward", "reward.py:score", *model)
    assert "endpoint policy at http://127.0.0.1:9/v1 did not answer" in done.stdout
    assert "see whether its policy server runs, then try again" in done.stdout
    assert rollouts_of(folder)[0].status == "incomplete"


def test_a_server_that_refuses_the_key_is_one_line_with_what_to_do(folder: Path) -> None:
    write_tasks(folder, [{"say": "x"}])
    with BackgroundServer(folder / "store.sqlite") as server:
        wanted = command("run", "agent.py:solve", "--tasks", "tasks.jsonl", "--server", server.url)
        done = subprocess.run(
            wanted, cwd=folder, capture_output=True, text=True, env={**environment(), "LEYDEN_KEY": "no"}, check=False
        )
    assert done.returncode == 1
    assert "set LEYDEN_KEY to the key that `leyden serve` or `leyden keys add` printed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_ends_in_time_and_a_second_one_puts_the_rest_back(
    folder: Path, number: signal.Signals
) -> None:
    tasks = [{"say": "x"}, {"gate": "one"}, {"gate": "two"}, {"say": "late"}, {"say": "later"}]
    write_tasks(folder, tasks)
    for name in ("started", "one", "two"):
        os.mkfifo(folder / name)
    wanted = command("run", "agent.py:solve", "--tasks", "tasks.jsonl", "--reward", "reward.py:score")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with FakeServer([Reply("good")]) as policy:
        wanted += ["--model-url", policy.url, "--model", "fake", "--concurrency", "2"]
        process = subprocess.Popen(wanted, cwd=folder, env=environment(), text=True, **pipes)
        started: list[str] = []
        while len(started) < 2:
            started += (folder / "started").read_text().split()  # opens as soon as an agent does
        assert process.stderr is not None
        process.send_signal(number)
        assert process.stderr.readline().startswith("stopping; what runs may end")
        (folder / "one").write_text("good")
        wait_until_ended(folder, 2)
        process.send_signal(number)
        out, told = process.communicate()
    assert process.returncode == 128 + number
    assert "Traceback" not in told
    assert "5 rollouts: 3 queued, 2 succeeded" in out
    assert [(r.status, r.attempt, r.released) for r in rollouts_of(folder)] == [
        ("succeeded", 1, 0),
        ("succeeded", 1, 0),
        ("queued", 1, 1),
        ("queued", 0, 0),
        ("queued", 0, 0),
    ]


def wait_until_ended(folder: Path, count: int) -> None:
    while sum(rollout.finished for rollout in rollouts_of(folder)) < count:
        pass


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has no task"), ('{"a": 1}\n{"a": \n', "line 2: not JSON")],
)
def test_bad_task_files_are_refused_at_the_door(folder: Path, text: str, message: str) -> None:
    (folder / "tasks.jsonl").write_text(text)
    done = leyden(folder, "run", "agent.py:solve", "--tasks", "tasks.jsonl")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_agent_that_is_not_there_is_named(folder: Path) -> None:
    write_tasks(folder, [{"say": "x"}])
    done = leyden(folder, "run", "agent.py:sovle", "--tasks", "tasks.jsonl")
    assert done.returncode == 2
    assert "has no function 'sovle'" in done.stderr
