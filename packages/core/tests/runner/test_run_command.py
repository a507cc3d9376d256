"""`leyden run` as a user types it: real processes, a real gateway, the real openai client in the agent."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from leyden.testing.fake_server import FakeServer, Reply

AGENT = """
import asyncio, os, time
import openai

client = openai.OpenAI()

def solve(task):
    print("working")
    if task.get("raise"):
        raise ValueError("the agent cannot do this")
    if task.get("hang"):
        time.sleep(60)
    if task.get("die"):
        os._exit(3)
    if task.get("peek"):
        return os.environ.get("LEYDEN_KEY", "no key here")
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
    if wanted == "none":
        return None
    return result == "good"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "reward.py").write_text(REWARD)
    return tmp_path


def leyden(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "leyden", *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


def run(folder: Path, tasks: list[dict[str, Any]], *more: str) -> tuple[str, list[dict[str, Any]]]:
    (folder / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    with FakeServer(lambda body, headers: Reply("good")) as policy:
        model = ("--model-url", policy.url, "--model", "fake")
        agent = more[0] if more and more[0].startswith("agent.py") else "agent.py:solve"
        rest = more[1:] if agent is more[:1] or (more and more[0] == agent) else more
        done = leyden(folder, "run", agent, "--tasks", "tasks.jsonl", "--reward", "reward.py:score", *model, *rest)
    assert done.returncode == 0, done.stderr
    listed = json.loads(leyden(folder, "rollouts", "--json").stdout)
    return done.stdout, listed["rollouts"]


def test_an_agent_is_run_scored_and_shown(folder: Path) -> None:
    out, rollouts = run(folder, [{"say": "hi", "id": "one"}, {"say": "ho"}])
    assert "2 rollouts: 2 succeeded" in out
    assert "mean reward 1.000 over 2 complete rollouts" in out
    assert [(r["task_id"], r["status"], r["result"]) for r in rollouts] == [
        ("one", "succeeded", "good"),
        ("2", "succeeded", "good"),
    ]
    shown = leyden(folder, "show", rollouts[0]["id"])
    assert "unstructured  ok" in shown.stdout
    assert "reward 1  (score, by the grader)" in shown.stdout
    parts = json.loads(leyden(folder, "show", rollouts[0]["id"], "--json").stdout)
    assert parts["calls"][0]["attempts"][0]["choices"][0]["token_ids"]


def test_async_agents_and_a_process_for_each_rollout(folder: Path) -> None:
    assert [r["status"] for r in run(folder, [{"say": "x"}] * 3, "agent.py:solve_async")[1]] == ["succeeded"] * 3


def test_isolated_rollouts_are_routed_too(folder: Path) -> None:
    _, rollouts = run(folder, [{"say": "x"}] * 2, "--isolation", "process")
    assert [(r["status"], r["result"]) for r in rollouts] == [("succeeded", "good")] * 2


def test_isolated_rollouts_on_anthropics_client_are_routed_and_none_of_the_users_secrets_go_with_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, "a-secret")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "Authorization: Bearer a-secret")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    _, rollouts = run(folder, [{"say": "x"}] * 2, "agent.py:solve_with_anthropic", "--isolation", "process")
    assert [(r["status"], r["result"]) for r in rollouts] == [("succeeded", "good")] * 2


def test_what_the_agent_does_wrong_is_data(folder: Path) -> None:
    out, rollouts = run(folder, [{"raise": 1}, {"hang": 1}], "--timeout", "1", "--on-failure", "-0.5")
    assert [(r["status"], r["failure"]["kind"]) for r in rollouts] == [("failed", "agent_error"), ("failed", "timeout")]
    assert {r["attempt"] for r in rollouts} == {1}
    assert "mean reward -0.500 over 2 complete rollouts" in out


def test_a_worker_that_dies_is_tried_again_and_then_incomplete(folder: Path) -> None:
    _, (rollout,) = run(folder, [{"die": 1}])
    assert (rollout["status"], rollout["attempt"]) == ("incomplete", 3)
    assert "the worker process ended with exit status 3" in rollout["incomplete"][0]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ("raise", "the reward function score raised KeyError: 'no such answer'"),
        ("nan", "a reward must be finite, got nan"),
        ("none", "the reward function score returned None"),
    ],
)
def test_a_bad_reward_makes_its_rollout_incomplete(folder: Path, wanted: str, reason: str) -> None:
    _, (rollout,) = run(folder, [{"say": "x", "score": wanted}])
    assert rollout["status"] == "incomplete"
    assert any(reason in told for told in rollout["incomplete"])


def test_the_worker_does_not_have_the_operators_key(folder: Path) -> None:
    assert run(folder, [{"peek": 1}])[1][0]["result"] == "no key here"


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
    (folder / "tasks.jsonl").write_text('{"say": "x"}\n')
    done = leyden(folder, "run", "agent.py:sovle", "--tasks", "tasks.jsonl")
    assert done.returncode == 2
    assert "has no function 'sovle'" in done.stderr
