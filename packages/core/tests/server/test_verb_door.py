"""What goes round FastAPI is answered as FastAPI would: the same request under a type that only FastAPI reads."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from leyden.keys import Keys
from leyden.server.app import create_app
from leyden.store import SqlStore
from leyden.types import Call, Outcome, Reward

KEY = "the operator's"
DEEP = b'{"calls": ' + b"[" * 150 + b"]" * 150 + b"}"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    store = SqlStore.open(tmp_path / "store.sqlite")
    transport = httpx.ASGITransport(create_app(store, Keys(KEY)))
    async with httpx.AsyncClient(transport=transport, base_url="http://leyden") as client:
        yield client
    await store.close()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("rollouts/claim", b'{"runner": "ann", "limit": 1, "lease_s": 5}', 200),
        ("rollouts/heartbeat", b'{"runner": "ann", "held": [["r", 1]], "lease_s": 5}', 200),
        ("rollouts/wait", b'{"rollout_ids": ["r"], "timeout_s": 0}', 200),
        ("rollouts", b'{"rollouts": [{"id": "r", "group_id": "g"}]}', 200),
        ("calls/query", b'{"rollout_ids": []}', 200),
        ("rollouts/claim", b'{"runner": "ann", "limit": 0, "lease_s": 5}', 400),
        ("rollouts/claim", b'{"runner": "ann", "limit": 1}', 400),
        ("rollouts/claim", b'{"runner": "ann", "limit": 1, "lease_s": Infinity}', 400),
        ("rollouts/claim", b'{"runner": "ann", "limit": 1, "lease_s": 5, "more": 1}', 400),
        ("rollouts/heartbeat", b'{"runner": "ann", "held": [["r"]], "lease_s": -1}', 400),
        ("rollouts", b'{"rollouts": [{"id": "r", "task": NaN}]}', 400),
        ("calls", DEEP, 400),
        ("calls", b'{"calls": "\xff"}', 400),
        ("calls", b"[1, 2", 400),
        ("calls", b"null", 400),
        ("calls", b"", 400),
        ("calls", b'{"calls": [%b]}' % Call(id="c", rollout_id="nobody").model_dump_json().encode(), 404),
        ("rewards", b'{"rewards": [%b]}' % Reward(id="w", rollout_id="no", value=1).model_dump_json().encode(), 404),
        (
            "rollouts/finish",
            Outcome(rollout_id="no", attempt=1, runner="ann", status="succeeded").model_dump_json().encode(),
            404,
        ),
    ],
)
async def test_the_answer_and_the_error_are_those_of_the_route_that_fastapi_declares(
    client: httpx.AsyncClient, path: str, body: bytes, status: int
) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    answers = [
        await client.post(f"/api/{path}", content=body, headers={**headers, "Content-Type": kind})
        for kind in ("application/json", "application/json; charset=utf-8")
    ]
    assert [answer.status_code for answer in answers] == [status, status]
    assert answers[0].json() == answers[1].json()
    assert answers[0].headers["content-type"] == answers[1].headers["content-type"]


@pytest.mark.parametrize("path", ["rollouts/claim", "calls", "rollouts"])
async def test_a_body_is_not_judged_for_who_has_no_key(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(f"/api/{path}", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 401
