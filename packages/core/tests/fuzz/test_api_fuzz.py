"""Requests to every route, made from the OpenAPI document or by changing right ones: the server never fails."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from leyden.server.serve import BackgroundServer
from leyden.types import (
    Attempt,
    Call,
    Choice,
    Credit,
    Endpoint,
    Outcome,
    Request,
    Reward,
    Rollout,
    Structure,
    ToolUse,
)

NOT_WAITED_FOR = {"wait_s": 0, "timeout_s": 0}
QUIET: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundServer]:
    """A server in which rollout "a" runs."""
    with BackgroundServer(tmp_path_factory.mktemp("fuzz") / "store.sqlite") as server:
        with httpx.Client(base_url=server.url, headers=authorised(server)) as client:
            client.post("/api/rollouts", json={"rollouts": [{"id": "a"}]}).raise_for_status()
            claim = {"runner": "me", "limit": 1, "lease_s": 6000}
            client.post("/api/rollouts/claim", json=claim).raise_for_status()
        yield server


def authorised(server: BackgroundServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {server.key}"}


class Answers:
    """Counts answers, and keeps those that are faults of ours."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []

    def add(self, what: str, status: int, text: str) -> None:
        self.statuses[status] += 1
        right = status < 400 or (status < 500 and set(json.loads(text)["error"]) >= {"type", "message"})
        if not right:
            self.faults.append(f"{what[:1500]} -> {status} {text[:300]}")

    def conclude(self, what: str) -> list[str]:
        """Print what was answered; the faults among it."""
        told = ", ".join(f"{number} x {status}" for status, number in sorted(self.statuses.items()))
        print(f"\n{what}: {self.statuses.total()} requests, answered {told}; {len(self.faults)} faults")
        return self.faults


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_made_from_the_document_is_answered_with_a_fault_of_ours(
    server: BackgroundServer, mode: GenerationMode, fuzz_examples: int
) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    answers = Answers()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=fuzz_examples, **QUIET)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            if isinstance(case.body, dict):
                case.body.update(dict.fromkeys(NOT_WAITED_FOR.keys() & case.body.keys(), 0))
            response = case.call(headers=authorised(server), timeout=20)
            answers.add(case.as_curl_command(), response.status_code, response.text)

        with contextlib.suppress(Unsatisfiable):  # a route without parameters cannot be asked wrongly
            ask()
    assert answers.conclude(f"schemathesis, {mode.value}") == []


def right_requests() -> list[dict[str, Any]]:
    """One right request for each route that takes a body, or a query; each field is filled."""
    choice = Choice(message={"role": "assistant", "content": "hi"}, token_ids=(1, 2), logprobs=(-0.5, -1.0))
    attempt = Attempt(
        number=0, status="ok", started_at=1, latency_ms=2, version=3, prompt_token_ids=(1,), choices=(choice,), usage={}
    )
    call = Call(
        id="x",
        rollout_id="a",
        request=Request(messages=({"role": "user", "content": "hi"},), tools=({"type": "function"},), asked={"n": 1}),
        attempts=(attempt,),
        structure=Structure(agent=("a",), step=1),
        tools=(ToolUse(name="f", arguments={}, result=[1]),),
    )
    reward = Reward(rollout_id="a", value=1.0, agent="a", call_id="x")
    outcome = Outcome(rollout_id="a", attempt=1, runner="nobody", status="succeeded", result={}, rewards=(reward,))
    credit = Credit(call_id="x", rollout_id="a", run="r", step=1, method="m", advantage=0.5)
    endpoint = Endpoint(url="http://127.0.0.1:9/v1", model="m")
    rollout = Rollout(task={"q": [1]}, run="r", step=1)

    def dumped(*values: Any) -> list[Any]:
        return [value.model_dump(mode="json") for value in values]

    held = {"runner": "nobody", "held": [["a", 1]], "lease_s": 5.0}
    query = {"after": 0, "limit": 10, "run": "r", "group_id": "g", "mode": "train", "status": "queued"}
    bodies: list[tuple[str, str, Any]] = [
        ("POST", "/api/rollouts", {"rollouts": dumped(rollout)}),
        ("POST", "/api/rollouts/claim", {"runner": "me", "limit": 1, "lease_s": 5.0, "wait_s": 0}),
        ("POST", "/api/rollouts/heartbeat", held),
        ("POST", "/api/rollouts/release", held),
        ("POST", "/api/rollouts/finish", *dumped(outcome.model_copy(update={"wait_s": 0}))),
        ("POST", "/api/rollouts/wait", {"rollout_ids": ["a"], "timeout_s": 0}),
        ("POST", "/api/calls", {"calls": dumped(call)}),
        ("POST", "/api/rewards", {"rewards": dumped(reward)}),
        ("POST", "/api/credits", {"credits": dumped(credit)}),
        *(("POST", f"/api/{name}/query", {"rollout_ids": ["a"]}) for name in ("calls", "rewards", "credits")),
        ("PUT", "/api/endpoints/policy", *dumped(endpoint)),
    ]
    asked = [{"method": method, "path": path, "body": body, "query": {}} for method, path, body in bodies]
    return [*asked, {"method": "GET", "path": "/api/rollouts", "body": None, "query": query}]


def test_no_change_to_a_right_request_is_answered_with_a_fault_of_ours(
    server: BackgroundServer, fuzz_examples: int, mutated: Any
) -> None:
    answers = Answers()
    requests = right_requests()

    with httpx.Client(base_url=server.url, headers=authorised(server), timeout=20) as client:

        @settings(max_examples=fuzz_examples * 40, **QUIET)
        @given(st.data())
        def ask(data: st.DataObject) -> None:
            request = data.draw(st.sampled_from(requests))
            changed = data.draw(mutated([{"body": request["body"], "query": request["query"]}]))
            content = json.dumps(changed.get("body"))
            query = changed.get("query")
            parameters = {str(key): str(value) for key, value in query.items()} if isinstance(query, dict) else {}
            with contextlib.suppress(UnicodeEncodeError, httpx.InvalidURL):  # our client cannot send it
                response = client.request(
                    request["method"],
                    request["path"],
                    content=content,
                    params=parameters,
                    headers={"Content-Type": "application/json"},
                )
                answers.add(f"{request['path']} {parameters} {content}", response.status_code, response.text)
            pages(client, answers)

        ask()
    assert answers.conclude("changed requests") == []


def pages(client: httpx.Client, answers: Answers) -> None:
    """What was taken can be read again."""
    for path in ("/api/rollouts?limit=1000", "/api/rollouts/a", "/api/endpoints", "/metrics"):
        response = client.get(path)
        answers.add(f"afterwards {path}", response.status_code, response.text)
