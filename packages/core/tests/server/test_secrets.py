"""Keys and headers never reach the store; secrets within texts do not either, where redaction is on."""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from leyden.client import HttpStore
from leyden.redaction import builtin
from leyden.server.options import ServerOptions
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Call, Endpoint, Outcome, Reward, Rollout, ToolUse

# In two pieces, so that no scan of this repository takes them for secrets.
SECRET = "sk-" + "proj-aB3dE5fG7hJ9kL1mN3pQ5rS7"


@asynccontextmanager
async def running(
    folder: Path, redact: Callable[[str], Any] | None, reply: str = "good morning"
) -> AsyncIterator[tuple[FakeServer, HttpStore, httpx.AsyncClient]]:
    """A server with rollout "a" running; a client with its key."""
    options = ServerOptions(redact=redact)
    with (
        FakeServer(lambda body, headers: Reply(reply)) as policy,
        BackgroundServer(folder / "s.sqlite", options) as server,
    ):
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="m"))
        await store.queue([Rollout(id="a", mode="train")])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        headers = {"Authorization": f"Bearer {claim.key}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
            yield policy, store, client
        await store.close()


async def finished(store: HttpStore) -> Rollout:
    rewards = (Reward(rollout_id="a", value=1),)
    outcome = Outcome(rollout_id="a", attempt=1, runner="me", status="succeeded", rewards=rewards)
    return await store.finish(outcome.model_copy(update={"result": f"I found {SECRET}"}))


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def stored(folder: Path) -> str:
    """All that the database's files hold: what is compressed there is read back by the tests themselves."""
    with sqlite3.connect(folder / "s.sqlite") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return (folder / "s.sqlite").read_bytes().decode("latin-1")


async def test_keys_in_headers_and_in_their_usual_fields_reach_neither_store_nor_policy(tmp_path: Path) -> None:
    async with running(tmp_path, None) as (policy, store, client):
        headers = dict.fromkeys(("api-key", "x-api-key", "Cookie", "OpenAI-Organization", "X-Provider"), SECRET)
        body = chat("hi", api_key=SECRET, extra_headers={"Authorization": SECRET})
        assert (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
        (call,) = await store.calls(["a"])
        key = client.headers["Authorization"].removeprefix("Bearer ")
        assert not any(secret in call.model_dump_json() for secret in (SECRET, key))
        assert not any(SECRET in str(asked) for asked in policy.requests)
    assert not any(secret in stored(tmp_path) for secret in (SECRET, key))


async def test_an_endpoint_whose_url_holds_a_password_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, None) as (_, store, _client):
        for url in ("http://me:secret@policy/v1", "file:///etc/passwd", "policy:8000/v1"):
            with pytest.raises(ValueError, match="its url must be"):
                await store.publish(Endpoint(id="other", url=url, model="m"))


@pytest.mark.parametrize("where", ["request", "answer"])
async def test_a_call_with_a_secret_is_kept_without_it_and_without_tokens_and_is_not_trained_on(
    tmp_path: Path, where: str
) -> None:
    said = f"the key is {SECRET}."
    async with running(tmp_path, builtin, said if where == "answer" else "good morning") as (_, store, client):
        answer = await client.post("/v1/chat/completions", json=chat(said if where == "request" else "hi"))
        assert answer.status_code == 200
        assert (SECRET in answer.text) == (where == "answer")  # the agent gets what was sampled
        (call,) = await store.calls(["a"])
        assert call.request is not None
        assert call.answer is not None
        texts = (call.request.messages[0]["content"], call.answer.choices[0].message["content"])
        assert "the key is [redacted]." in texts
        assert (call.answer.prompt_token_ids, call.answer.choices[0].token_ids) == (None, None)
        ended = await finished(store)
        assert (ended.status, ended.result) == ("incomplete", "I found [redacted]")
        assert "redacted: secrets were taken out" in ended.incomplete[0]
    assert SECRET not in stored(tmp_path)


async def test_a_call_without_a_secret_keeps_its_tokens_and_is_trained_on(tmp_path: Path) -> None:
    async with running(tmp_path, builtin) as (_, store, client):
        await client.post("/v1/chat/completions", json=chat("hi"))
        (call,) = await store.calls(["a"])
        assert call.answer is not None
        assert call.answer.choices[0].token_ids
        assert (await finished(store)).status == "succeeded"


async def test_what_an_adapter_tells_of_tools_is_redacted_too(tmp_path: Path) -> None:
    async with running(tmp_path, builtin) as (_, store, client):
        told = Call(id="x", rollout_id="a", tools=(ToolUse(name="read_env", result={"env": f"KEY={SECRET}"}),))
        answer = await client.post("/api/calls", json={"calls": [told.model_dump(mode="json")]})
        assert answer.status_code == 200
        assert (await store.call("x")).tools[0].result == {"env": "KEY=[redacted]"}


async def test_a_prompt_of_token_ids_cannot_be_looked_at_and_is_not_kept(tmp_path: Path) -> None:
    async with running(tmp_path, builtin) as (_, store, client):
        answer = await client.post("/v1/completions", json={"model": "m", "prompt": [1, 2, 3]})
        assert answer.status_code == 200
        (call,) = await store.calls(["a"])
        assert call.request is not None
        assert call.request.messages[0]["content"] == "[redacted]"
        assert call.attempts[0].prompt_token_ids is None


async def test_a_users_function_decides_and_if_it_gives_no_text_the_answer_is_withheld(tmp_path: Path) -> None:
    async with running(tmp_path, lambda text: text.replace("Ann", "N.")) as (_, store, client):
        await client.post("/v1/chat/completions", json=chat("I am Ann"))
        assert "I am N." in (await store.calls(["a"]))[0].model_dump_json()
    (tmp_path / "none").mkdir()
    async with running(tmp_path / "none", lambda text: None) as (_, store, client):
        answer = await client.post("/v1/chat/completions", json=chat("hi"))
        assert (answer.status_code, "returned NoneType, expected a text" in answer.text) == (503, True)
        assert await store.calls(["a"]) == []


@pytest.mark.parametrize(
    "secret",
    [
        SECRET,
        "sk-" + "ant-api03-aB3dE5fG7hJ9kL1mN3pQ",
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
        "xoxb-" + "123456789012-abcdefABCDEF",
        "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxIn0x." + "c2lnbmF0dXJlMTIz",
        "-----BEGIN " + "PRIVATE KEY-----\nMIIabc\ndef\n-----END PRIVATE KEY-----",
    ],
)
def test_the_common_forms_of_secrets_are_taken_out_and_nothing_beside_them(secret: str) -> None:
    assert builtin(f"before {secret} after") == "before [redacted] after"


def test_values_with_telling_names_are_taken_out_and_words_about_them_are_not() -> None:
    assert builtin('{"password": "hunter2hunter2", "user": "ann"}') == '{"password": "[redacted]", "user": "ann"}'
    assert builtin("API_KEY=abcdefgh12345678") == "API_KEY=[redacted]"
    assert builtin("curl -H 'Authorization: Bearer abcdefghijklmnop'").endswith("Bearer [redacted]'")
    assert builtin("postgresql://ann:hunter2@db/leyden") == "postgresql://[redacted]@db/leyden"
    for harmless in ("your password: it must be long", "max_tokens = 4096", "sk-learn", "the token is secret"):
        assert builtin(harmless) == harmless
