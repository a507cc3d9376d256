"""What the gateway lets into the store of what a policy server says that it sampled."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.testing.fake_server import FakeServer, Reply
from leyden.types import Endpoint, Outcome, Reward, Rollout

HELLO = [{"role": "user", "content": "hello"}]
SAID = "good morning"
IDS, LOGPROBS = (11, 12, 2), (-0.5, 0.0, -1.25)


@dataclass
class Stage:
    """A server with one running rollout, a policy, and the agent's own client."""

    store: HttpStore
    policy: FakeServer
    agent: openai.AsyncOpenAI


@pytest.fixture
def replies() -> list[Reply]:
    return []


@pytest.fixture
async def stage(tmp_path: Path, replies: list[Reply]) -> AsyncIterator[Stage]:
    with FakeServer(replies) as policy, BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="fake", version=5))
        await store.queue([Rollout(id="a", mode="train")])
        (claim,) = await store.claim("me", limit=1, lease_s=600)
        agent = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=claim.key or "", max_retries=0)
        yield Stage(store, policy, agent)
        await agent.close()
        await store.close()


async def recorded(stage: Stage, *, stream: bool = False) -> tuple[str, str | None, tuple[int, ...] | None]:
    """What the agent heard, what the store says is wrong with it, and the tokens that it keeps."""
    answer = await stage.agent.chat.completions.create(model="m", messages=HELLO, stream=stream)
    if stream:
        heard = "".join([chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices])
    else:
        heard = answer.choices[0].message.content or ""
    (call,) = await stage.store.calls(["a"])
    return heard, call.attempts[0].error, call.attempts[0].choices[0].token_ids


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("replies", [[Reply(SAID, token_ids=IDS, logprobs=LOGPROBS)]])
async def test_tokens_that_can_be_right_are_kept(stage: Stage, stream: bool) -> None:
    assert await recorded(stage, stream=stream) == (SAID, None, IDS)


@pytest.mark.parametrize("replies", [[Reply(SAID, token_ids=IDS, logprobs=(-0.5, 2.0**-22, -1.25))]])
async def test_a_logprob_above_zero_by_float32s_rounding_is_kept_as_it_came(stage: Stage) -> None:
    assert await recorded(stage) == (SAID, None, IDS)
    (call,) = await stage.store.calls(["a"])
    assert call.attempts[0].choices[0].logprobs == (-0.5, 2.0**-22, -1.25)


WRONG = {
    "3 token ids and 2 log-probabilities": Reply(SAID, token_ids=IDS, logprobs=(-0.5, -1.0), named_ids=IDS[:2]),
    "log-probabilities from -1.25 to 0.001": Reply(SAID, token_ids=IDS, logprobs=(-0.5, 0.001, -1.25)),
    "log-probabilities from -9999.0 to -0.5": Reply(SAID, token_ids=IDS, logprobs=(-0.5, -9999.0, -1.25)),
    "token ids that are no natural numbers": Reply(SAID, token_ids=(11, -12, 2), logprobs=LOGPROBS),
    "at place 1 of ['token_id:13'], not ['token_id:12']": Reply(
        SAID, token_ids=IDS, logprobs=LOGPROBS, named_ids=(11, 13, 2)
    ),
    "no token_ids and no logprobs": Reply(SAID, tokens=False),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("problem", "replies"), [(problem, [reply]) for problem, reply in WRONG.items()], ids=WRONG)
async def test_tokens_that_cannot_be_right_are_told_and_not_kept(stage: Stage, stream: bool, problem: str) -> None:
    """The agent still gets its answer, and its rollout cannot be trained on."""
    heard, error, kept = await recorded(stage, stream=stream)
    assert (heard, kept) == (SAID, None)
    assert problem in (error or "")
    rewards = (Reward(rollout_id="a", value=1),)
    ended = await stage.store.finish(
        Outcome(rollout_id="a", attempt=1, runner="me", status="succeeded", rewards=rewards)
    )
    assert ended.status == "incomplete"
    assert "lacks" in ended.incomplete[0]


COUNTS = {
    "where the usage counts 4 completion_tokens": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}},
    "where the usage counts 9 prompt_tokens": {"usage": {"prompt_tokens": 9, "completion_tokens": 3}},
    "the prompt came with token ids that are no natural numbers": {"prompt_token_ids": [1, "2"], "usage": None},
}


@pytest.mark.parametrize(
    ("problem", "replies"),
    [(problem, [Reply(SAID, token_ids=IDS, logprobs=LOGPROBS, extra=extra)]) for problem, extra in COUNTS.items()],
    ids=COUNTS,
)
async def test_tokens_that_were_lost_on_the_way_are_told(stage: Stage, problem: str) -> None:
    _, error, _ = await recorded(stage)
    assert problem in (error or "")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("replies", [[Reply(SAID, token_ids=IDS, logprobs=(-0.5, float("nan"), -1.25))]])
async def test_nan_is_no_json_and_fails_the_call(stage: Stage, stream: bool) -> None:
    with pytest.raises(openai.APIError, match="expected a JSON object"):
        await recorded(stage, stream=stream)
    (call,) = await stage.store.calls(["a"])
    assert (call.status, call.answer) == ("error", None)


async def test_nan_in_a_request_is_refused(stage: Stage) -> None:
    body = '{"model": "m", "messages": [{"role": "user", "content": "hello"}], "temperature": NaN}'
    headers = {"Authorization": f"Bearer {stage.agent.api_key}"}
    async with httpx.AsyncClient(base_url=str(stage.agent.base_url), headers=headers) as client:
        answer = await client.post("chat/completions", content=body)
    assert answer.status_code == 400
    assert "expected a JSON object" in answer.text
    assert stage.policy.requests == []


@pytest.mark.parametrize("replies", [[Reply("one"), Reply("two")]])
async def test_a_call_id_is_not_used_for_another_request(stage: Stage) -> None:
    headers = {"X-Leyden-Call": "mine"}
    await stage.agent.chat.completions.create(model="m", messages=HELLO, extra_headers=headers)
    other = [{"role": "user", "content": "something else"}]
    with pytest.raises(openai.BadRequestError, match="request of call mine, messages was recorded as"):
        await stage.agent.chat.completions.create(model="m", messages=other, extra_headers=headers)
    call = await stage.store.call("mine")
    assert call.request is not None
    assert (call.request.messages, len(call.attempts)) == (tuple(HELLO), 1)


HELD = threading.Event()


@pytest.mark.parametrize("replies", [[Reply(SAID, token_ids=IDS, logprobs=LOGPROBS, delay=HELD)]])
async def test_an_answer_whose_weights_changed_under_it_has_no_version(stage: Stage) -> None:
    asking = asyncio.create_task(recorded(stage))
    await asyncio.to_thread(stage.policy.wait_requests, 1)
    await stage.store.publish(Endpoint(url=stage.policy.url, model="fake", version=6))
    HELD.set()
    assert (await asking)[2] == IDS
    (call,) = await stage.store.calls(["a"])
    assert call.attempts[0].version is None


@pytest.mark.parametrize("replies", [[Reply(SAID, token_ids=IDS, logprobs=LOGPROBS, extra={"model_version": 7})]])
async def test_the_version_that_the_policy_names_is_the_one_on_record(stage: Stage) -> None:
    await recorded(stage)
    (call,) = await stage.store.calls(["a"])
    assert call.attempts[0].version == 7


def test_no_type_of_the_wire_holds_what_is_no_json() -> None:
    for value in (float("nan"), float("inf"), {"deep": [float("-inf")]}):
        with pytest.raises(ValueError, match="finite number"):
            Rollout(task=value)
