import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Endpoint, Outcome, Reward, Rollout, Sampling

HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class Stage:
    """A server with one running rollout, a policy, and the agent's own client."""

    store: HttpStore
    policy: FakeServer
    agent: openai.AsyncOpenAI


@pytest.fixture
def replies() -> list[Reply]:
    return [Reply("good morning"), Reply("good night")]


@pytest.fixture
def sampling() -> Sampling:
    return Sampling()


@pytest.fixture
async def stage(tmp_path: Path, replies: list[Reply], sampling: Sampling) -> AsyncIterator[Stage]:
    with FakeServer(replies) as policy, BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="fake", version=5))
        await store.queue([Rollout(id="a", mode="train", sampling=sampling)])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        agent = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=claim.key or "", max_retries=0)
        yield Stage(store, policy, agent)
        await agent.close()
        await store.close()


async def test_the_agent_sees_an_ordinary_answer_and_the_store_has_the_tokens(stage: Stage) -> None:
    answer = await stage.agent.chat.completions.create(model="gpt-x", messages=HELLO)
    assert (answer.choices[0].message.content, answer.model) == ("good morning", "gpt-x")
    assert answer.choices[0].logprobs is None
    assert "token_ids" not in answer.model_dump_json()
    (call,) = await stage.store.calls(["a"])
    (attempt,) = call.attempts
    assert attempt.prompt_token_ids
    assert len(attempt.choices[0].token_ids or ()) == len(attempt.choices[0].logprobs or ()) > 0
    assert (attempt.version, attempt.status, call.captured_by) == (5, "ok", ("gateway",))
    ended = await stage.store.finish(
        Outcome(
            rollout_id="a", attempt=1, runner="me", status="succeeded", rewards=(Reward(rollout_id="a", value=True),)
        )
    )
    assert ended.status == "succeeded"


async def test_an_answer_of_which_nothing_is_taken_out_comes_in_the_policys_own_bytes(stage: Stage) -> None:
    """The policy writes a space after each colon and comma, the gateway none."""
    ask = stage.agent.chat.completions.with_raw_response.create
    whole = await ask(model="fake", messages=HELLO, logprobs=True, extra_body={"return_token_ids": True})
    assert whole.content == json.dumps(json.loads(whole.content), ensure_ascii=False).encode()
    less = await ask(model="fake", messages=HELLO, logprobs=True)
    assert less.content == json.dumps(json.loads(less.content), ensure_ascii=False, separators=(",", ":")).encode()
    assert [answer.headers["content-length"] for answer in (whole, less)] == [
        str(len(answer.content)) for answer in (whole, less)
    ]
    assert [call.attempts[0].choices[0].logprobs is None for call in await stage.store.calls(["a"])] == [False, False]


async def test_a_stream_says_and_records_what_a_whole_answer_does(stage: Stage) -> None:
    stream = await stage.agent.chat.completions.create(model="gpt-x", messages=HELLO, stream=True)
    said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])
    assert said == "good morning"
    (call,) = await stage.store.calls(["a"])
    assert call.answer is not None
    assert call.answer.choices[0].message["content"] == "good morning"
    assert call.answer.prompt_token_ids
    assert len(call.answer.choices[0].token_ids or ()) == len(call.answer.choices[0].logprobs or ()) > 0


async def test_plain_completions_whole_and_streamed_are_recorded_as_exactly_as_chats(stage: Stage) -> None:
    whole = await stage.agent.completions.create(model="gpt-x", prompt="hello")
    stream = await stage.agent.completions.create(model="gpt-x", prompt="hello", stream=True)
    said = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
    assert (whole.choices[0].text, said, whole.model) == ("good morning", "good night", "gpt-x")
    assert "token_ids" not in whole.model_dump_json()
    for call, text in zip(await stage.store.calls(["a"]), ("good morning", "good night"), strict=True):
        assert call.request is not None
        assert (call.request.path, call.request.messages) == (
            "/v1/completions",
            ({"role": "prompt", "content": "hello"},),
        )
        assert call.answer is not None
        assert call.answer.choices[0].message["content"] == text
        assert call.answer.prompt_token_ids
        assert len(call.answer.choices[0].token_ids or ()) == len(call.answer.choices[0].logprobs or ()) > 0


@pytest.mark.parametrize("sampling", [Sampling(temperature=1.0, top_p=1.0, max_tokens=5, seed=3, bending="refuse")])
async def test_the_trainers_sampling_wins_and_both_are_on_record(stage: Stage) -> None:
    for _ in range(2):
        await stage.agent.chat.completions.create(model="m", messages=HELLO, temperature=0, max_tokens=9)
    sent = [request.body for request in stage.policy.requests]
    assert [body["temperature"] for body in sent] == [1.0, 1.0]
    assert [body["max_tokens"] for body in sent] == [5, 5]
    assert sent[0]["seed"] != sent[1]["seed"]
    call = (await stage.store.calls(["a"]))[0]
    assert call.request is not None
    assert (call.request.asked["temperature"], call.request.sent["temperature"]) == (0, 1.0)
    with pytest.raises(openai.BadRequestError, match="presence_penalty"):
        await stage.agent.chat.completions.create(model="m", messages=HELLO, presence_penalty=0.5)


@pytest.mark.parametrize("replies", [[Reply(status=500), Reply("late")]])
async def test_an_error_of_the_policy_reaches_the_agent_and_is_on_record(stage: Stage) -> None:
    with pytest.raises(openai.InternalServerError):
        await stage.agent.chat.completions.create(model="m", messages=HELLO)
    (call,) = await stage.store.calls(["a"])
    assert (call.status, call.attempts[0].http_status) == ("error", 500)


@pytest.mark.parametrize("replies", [[Reply(status=500), Reply("late")]])
async def test_a_retry_is_a_second_attempt_of_the_same_call(stage: Stage) -> None:
    headers = {"X-Leyden-Call": "mine"}
    retrying = stage.agent.with_options(max_retries=1)
    answer = await retrying.chat.completions.create(model="m", messages=HELLO, extra_headers=headers)
    assert answer.choices[0].message.content == "late"
    call = await stage.store.call("mine")
    assert [(attempt.number, attempt.status) for attempt in call.attempts] == [(0, "error"), (1, "ok")]


@pytest.mark.parametrize("replies", [[Reply("one two three four five six", cut_after=2)]])
async def test_a_policy_that_dies_in_mid_stream_leaves_its_partial_tokens(stage: Stage) -> None:
    stream = await stage.agent.chat.completions.create(model="m", messages=HELLO, stream=True)
    with pytest.raises(openai.APIError):
        [chunk async for chunk in stream]
    (call,) = await stage.store.calls(["a"])
    assert (call.status, call.answer) == ("error", None)
    assert call.attempts[0].choices[0].token_ids


async def test_a_policy_server_that_is_down_is_named(stage: Stage) -> None:
    await stage.store.publish(Endpoint(url="http://127.0.0.1:9/v1", model="fake", version=6))
    with pytest.raises(openai.APIStatusError, match=r"endpoint policy at http://127\.0\.0\.1:9/v1 did not answer"):
        await stage.agent.chat.completions.create(model="m", messages=HELLO)


async def test_a_finished_rollout_calls_no_model(stage: Stage) -> None:
    rewards = (Reward(rollout_id="a", value=1),)
    await stage.store.finish(Outcome(rollout_id="a", attempt=1, runner="me", status="succeeded", rewards=rewards))
    with pytest.raises(openai.APIStatusError, match="which is succeeded"):
        await stage.agent.chat.completions.create(model="m", messages=HELLO)


async def test_models_are_listed_and_other_paths_are_refused_by_name(stage: Stage) -> None:
    assert [model.id async for model in stage.agent.models.list()] == ["fake"]
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings is not served here"):
        await stage.agent.embeddings.create(model="m", input="x")
