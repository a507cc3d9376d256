import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

import leyden
from leyden.capture import install_capture, uninstall_capture
from leyden.client import HttpStore
from leyden.errors import Unattributed
from leyden.scope import Routing, Scope, current_scope, enter_scope
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Endpoint, Rollout

SECRET = "sk-secret-of-the-user"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def policy() -> Iterator[FakeServer]:
    install_capture(require_scope=True)
    with FakeServer(lambda body, headers: Reply(f"for {headers.get('authorization')}")) as server:
        yield server
    uninstall_capture()


def scope_of(policy: FakeServer, name: str = "a", **more: object) -> Scope:
    return Scope(name, 1, policy.url.removesuffix("/v1"), f"key-{name}", **more)  # type: ignore[arg-type]


def client() -> openai.OpenAI:
    return openai.OpenAI(
        base_url="http://127.0.0.1:9/somewhere/else",
        api_key=SECRET,
        organization=SECRET,
        default_headers={"X-Proxy-Secret": SECRET},
        max_retries=0,
    )


def ask(some: openai.OpenAI) -> str:
    return some.chat.completions.create(model="m", messages=HELLO).choices[0].message.content or ""


def test_a_hard_wired_client_is_routed_and_none_of_its_secrets_go_with_it(policy: FakeServer) -> None:
    with enter_scope(scope_of(policy)) as scope:
        assert ask(client()) == "for Bearer key-a"
    (request,) = policy.requests
    assert SECRET not in str(request.headers)
    assert scope.call_ids == [request.headers["x-leyden-call"]]
    assert scope.losses == []


async def test_a_hard_wired_client_asks_the_gateways_responses_door(policy: FakeServer, tmp_path: Path) -> None:
    with BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="fake"))
        await store.queue([Rollout(id="a", mode="train")])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        with enter_scope(Scope("a", 1, server.url, claim.key or "")) as scope:
            answer = await asyncio.to_thread(client().responses.create, model="m", input="hello")
        calls = await store.calls(["a"])
        await store.close()
    assert [call.id for call in calls] == scope.call_ids == [answer.id.removeprefix("resp_")]
    assert calls[0].answer is not None
    assert calls[0].answer.choices[0].token_ids
    assert SECRET not in str(policy.requests[0].headers)


def test_azure_clients_too(policy: FakeServer) -> None:
    azure = openai.AzureOpenAI(
        azure_endpoint="http://127.0.0.1:9", api_key=SECRET, api_version="2024-06-01", max_retries=0
    )
    with enter_scope(scope_of(policy)):
        assert ask(azure) == "for Bearer key-a"
    assert SECRET not in str(policy.requests[0].headers)


def test_a_call_outside_any_rollout_is_refused(policy: FakeServer) -> None:
    with pytest.raises(Unattributed, match=r'agent\.isolation = "process"'):
        ask(client())
    assert policy.requests == []


def test_a_call_after_the_rollout_is_refused(policy: FakeServer) -> None:
    with enter_scope(scope_of(policy)):
        go, errors = threading.Event(), []

        def late() -> None:
            go.wait()
            try:
                ask(client())
            except Unattributed as error:
                errors.append(error)

        thread = threading.Thread(target=late)
        thread.start()
    go.set()
    thread.join()
    assert "after it had ended" in str(errors[0])


def test_threads_and_executors_carry_the_rollout(policy: FakeServer) -> None:
    with ThreadPoolExecutor(1) as pool:
        for name in ("a", "b"):
            with enter_scope(scope_of(policy, name)):
                assert pool.submit(ask, client()).result() == f"for Bearer key-{name}"
        assert pool.submit(current_scope).result() is None


async def test_sixteen_rollouts_at_once_never_mix(policy: FakeServer) -> None:
    async def rollout(name: str) -> None:
        with enter_scope(scope_of(policy, name)) as scope:
            async with openai.AsyncOpenAI(base_url="http://127.0.0.1:9", api_key=SECRET) as some:
                for _ in range(4):
                    answer = await some.chat.completions.create(model="m", messages=HELLO)
                    assert answer.choices[0].message.content == f"for Bearer key-{name}"
                assert await asyncio.to_thread(ask, client()) == f"for Bearer key-{name}"
        assert len(scope.call_ids) == 5

    await asyncio.gather(*(rollout(str(number)) for number in range(16)))


def test_a_model_that_passes_through_goes_where_the_agent_sent_it(policy: FakeServer) -> None:
    with FakeServer([Reply("judged")]) as judge:
        own = openai.OpenAI(base_url=judge.url, api_key=SECRET)
        with enter_scope(scope_of(policy, routing=Routing(passthrough=("m",)))) as scope:
            assert ask(own) == "judged"
        assert judge.requests[0].headers["authorization"] == f"Bearer {SECRET}"
        assert "x-leyden-call" not in judge.requests[0].headers
    assert (policy.requests, scope.call_ids) == ([], [])


def test_uninstalled_nothing_is_touched() -> None:
    with FakeServer([Reply("mine")]) as own:
        assert ask(openai.OpenAI(base_url=own.url, api_key=SECRET)) == "mine"
        assert own.requests[0].headers["authorization"] == f"Bearer {SECRET}"


def test_importing_leyden_loads_no_framework_and_no_torch() -> None:
    heavy = ["torch", "langchain_core", "openai", "fastapi", "sqlalchemy", "httpx", "transformers", "pandas", "typer"]
    code = f"import sys, leyden; print([name for name in {heavy} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_the_public_names_are_these() -> None:
    assert sorted(leyden.__all__) == [
        "Attempt",
        "Call",
        "Choice",
        "Credit",
        "Current",
        "Endpoint",
        "LeydenError",
        "Request",
        "Reward",
        "Rollout",
        "Run",
        "Sampling",
        "Structure",
        "ToolUse",
        "credit",
        "current",
        "doctor",
        "export",
        "gc",
        "import_episodes",
        "reward",
        "rollouts",
        "run",
        "show",
        "train",
    ]
