"""The gateway's three doors before a real model and its policy server: the same conversation, the same tokens."""

import anthropic
import openai
import pytest
import torch

from leyden.client import HttpStore
from leyden.server.serve import BackgroundServer
from leyden.types import Endpoint, Rollout, Sampling
from leyden_trainer.local.model import load_model
from leyden_trainer.local.policy_server import PolicyServer
from leyden_trainer.local.sampler import Sampler
from leyden_trainer.testing import lookup_tasks
from leyden_trainer.transitions import transitions

DOORS = ("chat", "responses", "messages")


@pytest.fixture(scope="module")
def policy(warm_folder):
    model, tokenizer = load_model(warm_folder, device=torch.device("cpu"))
    sampler = Sampler(model, context_length=512)
    server = PolicyServer(sampler, tokenizer, model_name="tiny")
    server.start()
    yield server
    sampler.close()
    server.stop()


async def speak(door, url, key, messages, *, stream):
    """The answer's text to these chat messages, asked at one door with its own SDK."""
    if door == "messages":
        async with anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as client:
            fields = {"model": "m", "max_tokens": 20, "system": messages[0]["content"], "messages": messages[1:]}
            if stream:
                async with client.messages.stream(**fields) as events:
                    return await events.get_final_text()
            return (await client.messages.create(**fields)).content[0].text
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        if door == "chat":
            answer = await client.chat.completions.create(model="m", max_tokens=20, messages=messages, stream=stream)
            if not stream:
                return answer.choices[0].message.content
            return "".join([chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices])
        fields = {"model": "m", "max_output_tokens": 20, "input": messages}
        if stream:
            async with client.responses.stream(**fields) as events:
                return (await events.get_final_response()).output_text
        return (await client.responses.create(**fields)).output_text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_conversation_has_the_same_tokens_at_every_door_and_is_one_row(policy, tmp_path, stream):
    task = next(lookup_tasks(0))
    with BackgroundServer(tmp_path / "store.sqlite") as server:
        store = HttpStore(server.url, server.key)
        await store.publish(Endpoint(url=policy.url, model="tiny"))
        await store.queue(
            [Rollout(id=door, mode="train", sampling=Sampling(temperature=1.0, seed=3)) for door in DOORS]
        )
        rows, texts = {}, {}
        for claim in await store.claim("me", limit=3, lease_s=600):
            door = claim.rollout.id
            call = await speak(door, server.url, claim.key, task.first_messages, stream=stream)
            answer = await speak(door, server.url, claim.key, task.next_messages(call), stream=stream)
            rows[door], texts[door] = transitions(door, await store.calls([door]), max_tokens=None), (call, answer)
        await store.close()
    assert all(texts["chat"])
    assert texts["responses"] == texts["messages"] == texts["chat"]
    (chat,) = rows["chat"]
    for door in DOORS:
        (row,) = rows[door]
        assert (row.token_ids, row.mask) == (chat.token_ids, chat.mask)
        assert row.logprobs == pytest.approx(chat.logprobs, abs=1e-5)
