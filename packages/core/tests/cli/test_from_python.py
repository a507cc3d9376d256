"""What the commands do, from Python as a notebook calls it: a real server, runner and store, a fake policy."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

import leyden
from leyden.errors import BadConfig, NotFound
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply

TASKS = [{"id": "a", "right": "seven"}, {"id": "b", "right": "eight"}]


def solve(task):
    messages = [{"role": "user", "content": "how many?"}]
    answer = OpenAI(api_key="none").chat.completions.create(model="gpt-4o-mini", messages=messages)
    return answer.choices[0].message.content


def score(task, result):
    return result == task["right"]


@pytest.fixture(scope="module")
def policy() -> Iterator[FakeServer]:
    with FakeServer(lambda body, headers: Reply("seven")) as policy:
        yield policy


@pytest.fixture(scope="module")
def ran(policy: FakeServer, tmp_path_factory: pytest.TempPathFactory):
    runs = tmp_path_factory.mktemp("place") / "runs"
    return leyden.run(solve, TASKS, score, model_url=policy.url, model="fake", tries=2, runs=runs)


def test_an_agent_is_run_and_scored_and_its_rollouts_are_listed_and_shown(ran) -> None:
    assert [(rollout.task_id, rollout.status) for rollout in ran.rollouts] == [
        ("a", "succeeded"),
        ("a", "succeeded"),
        ("b", "succeeded"),
        ("b", "succeeded"),
    ]
    assert ran.mean_reward == 0.5
    first = ran.rollouts[0]
    assert leyden.rollouts(store=ran.place.store, group=first.group_id) == ran.rollouts[:2]
    shown = leyden.show(first.id[:12], store=ran.place.store)
    assert shown.rollout == first
    (call,) = shown.calls
    assert call.answer.choices[0].token_ids
    assert [reward.value for reward in shown.rewards] == [1.0]
    with pytest.raises(NotFound, match="no rollout and no call has the id 'nobody'"):
        leyden.show("nobody", store=ran.place.store)


def test_rollouts_go_to_a_file_into_another_store_and_away(ran, tmp_path: Path) -> None:
    archive = tmp_path / "archive.sqlite"
    assert leyden.export(tmp_path / "out.jsonl", store=ran.place.store, run=ran.rollouts[0].run) == 4
    assert leyden.import_episodes(tmp_path / "out.jsonl", archive) == (4, 0)
    assert leyden.import_episodes(tmp_path / "out.jsonl", archive) == (0, 4)
    assert leyden.rollouts(store=archive) == ran.rollouts
    assert leyden.gc("1d", store=archive) == 0
    assert leyden.gc("0s", store=archive, dry_run=True) == 4
    assert leyden.gc("0s", store=archive) == 4
    assert leyden.rollouts(store=archive) == []


def test_a_notebooks_own_function_runs_on_a_server_while_its_loop_runs(
    policy: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scope: dict = {}
    exec(f"def answer(task):\n    return {'seven'!r}\n", scope)  # it stands in no file

    async def cell():
        return leyden.run(scope["answer"], TASKS, score, server=server.url, runs=tmp_path / "runs")

    with BackgroundServer(tmp_path / "team.sqlite") as server:
        monkeypatch.setenv("LEYDEN_KEY", server.key)
        ran = asyncio.run(cell())
        assert [rollout.mode for rollout in ran.rollouts] == ["trace", "trace"]  # there is no policy
        assert leyden.rollouts(server=server.url) == ran.rollouts
        findings = leyden.doctor(server=server.url)
    assert ran.mean_reward == 0.5
    assert server.key not in repr(ran)
    assert [finding.text for finding in findings if not finding.ok] == ["no model endpoint is published"]


def test_the_doctor_says_which_port_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (problem,) = [finding for finding in leyden.doctor(port=port) if not finding.ok]
    assert str(problem).startswith(f"problem  port {port}: ")
    assert problem.advice == "end what uses it, or `leyden serve --port 0`"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model": "fake"}, "model_url and model belong together"),
        ({"server": "http://127.0.0.1:9"}, "needs its operator's key in LEYDEN_KEY"),
        ({"timeout": 3}, r"unknown option timeout; known are concurrency, .*timeout_s"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_anything_starts(
    given: dict, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LEYDEN_KEY", raising=False)
    with pytest.raises(BadConfig, match=told):
        leyden.run(solve, TASKS, score, runs=tmp_path / "runs", **given)
    assert not (tmp_path / "runs").exists()
