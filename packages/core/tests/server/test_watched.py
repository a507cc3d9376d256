"""What who watches a server sees: health, readiness, metrics, the log."""

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import create_engine, text

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Endpoint, Outcome, Reward, Rollout

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[BackgroundServer, HttpStore]]:
    with BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        yield server, store
        await store.close()


async def metrics(server: BackgroundServer) -> dict[str, float]:
    """Every sample as NAME{label value} → number."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {server.key}"}) as client:
        answer = await client.get(f"{server.url}/metrics")
    assert answer.status_code == 200
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


async def test_metrics_count_what_waits_runs_is_incomplete_and_was_sampled(
    server: tuple[BackgroundServer, HttpStore],
) -> None:
    with FakeServer([Reply("good morning")]) as policy:
        _, store = server
        await store.publish(Endpoint(url=policy.url, model="m", version=5))
        await store.publish(Endpoint(id="newer", url=policy.url, model="another", version=7, published_at=1))
        await store.queue([Rollout(id=name, mode="train") for name in ("a", "b", "c", "d")])
        claims = await store.claim("me", limit=3, lease_s=600)
        async with httpx.AsyncClient(base_url=server[0].url) as client:
            for key in (claims[0].key, server[0].key):
                await client.post("/v1/chat/completions", json=CHAT, headers={"Authorization": f"Bearer {key}"})
        await store.finish(Outcome(rollout_id="b", attempt=1, runner="me", status="succeeded"))
        gone = Outcome(rollout_id="c", attempt=1, runner="me", status="succeeded", call_ids=("x",), wait_s=0)
        await store.finish(gone.model_copy(update={"rewards": (Reward(rollout_id="c", value=1),)}))
        seen = await metrics(server[0])
    assert (seen["leyden_rollouts queued"], seen["leyden_rollouts running"]) == (1, 1)
    assert 0 <= seen["leyden_oldest_lease_seconds"] < 600
    reasons = {name: value for name, value in seen.items() if name.startswith("leyden_incomplete_rollouts")}
    assert reasons == {
        "leyden_incomplete_rollouts reward_missing": 1,
        "leyden_incomplete_rollouts call_not_recorded": 1,
    }
    assert seen["leyden_gateway_call_seconds_count ok"] == 1
    assert seen["leyden_record_seconds_count gateway"] == 1
    assert seen["leyden_unattributed_calls_total refused"] == 1
    assert (seen["leyden_policy_version policy"], seen["leyden_policy_version newer"]) == (5, 7)
    assert (seen["leyden_policy_staleness_steps_sum"], seen["leyden_policy_staleness_steps_count"]) == (2, 1)


async def test_a_server_is_ready_only_with_its_own_tables(
    server: tuple[BackgroundServer, HttpStore], tmp_path: Path
) -> None:
    async with httpx.AsyncClient(base_url=server[0].url) as client:
        assert (await client.get("/ready")).json()["status"] == "ready"
        engine = create_engine(f"sqlite:///{tmp_path / 'store.sqlite'}")
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        engine.dispose()
        answer = await client.get("/ready")
        assert (answer.status_code, "revision 9999" in answer.text) == (503, True)
        assert (await client.get("/health")).status_code == 200


def started(folder: Path, *flags: str) -> subprocess.Popen[str]:
    """`leyden serve` under the key "key"."""
    command = [sys.executable, "-m", "leyden", "serve", "--store", str(folder / "s.sqlite"), "--port", "0", *flags]
    environment = {**os.environ, "LEYDEN_KEY": "key"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


async def test_lines_of_the_log_are_json_and_name_rollout_and_call(tmp_path: Path) -> None:
    with (
        FakeServer([Reply("good morning")]) as policy,
        started(tmp_path, "--log-format", "json", "--log-calls") as process,
    ):
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        store = HttpStore(url, "key")
        await store.publish(Endpoint(url=policy.url, model="m"))
        await store.queue([Rollout(id="a")])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        headers = {"Authorization": f"Bearer {claim.key}", "X-Leyden-Call": "the call", "X-Leyden-Structure": "no JSON"}
        async with httpx.AsyncClient(base_url=url, headers=headers) as client:
            assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        await store.close()
        process.terminate()
        lines = [json.loads(line) for line in process.communicate()[1].splitlines()]
    assert [line["level"] for line in lines] == ["warning", "info"]
    assert "X-Leyden-Structure" in lines[0]["message"]
    assert lines[1].items() >= {"rollout": "a", "attempt": 1, "call": "the call", "logger": "leyden.gateway"}.items()
