from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseFunctionToolCall

from leyden.testing.fake_server import Reply

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "how hot it is",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": None,
}
CALL = Reply("let me see", tool_calls=[("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})])
THOUGHT = Reply("let me see", reasoning="where is that", tool_calls=[("weather", {"city": "Oslo"})])
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}


@pytest.fixture
async def agent(doorstep) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{doorstep.url}/v1", api_key=doorstep.keys["a"], max_retries=0) as client:
        yield client


def content_of(response: Any) -> dict[str, Any]:
    """All that a response says, without its ids and its time."""
    told = response.to_dict()
    for gone in ("id", "created_at"):
        told.pop(gone)
    for item in told["output"]:
        item.pop("id")
    return told


async def test_a_text_is_answered_and_its_exact_tokens_are_on_record(doorstep, agent) -> None:
    answer = await agent.responses.create(
        model="gpt-x", instructions="be brief", input="hello", temperature=0.5, max_output_tokens=9, metadata={"k": "v"}
    )
    assert (answer.output_text, answer.status, answer.model) == ("good morning", "completed", "gpt-x")
    assert (answer.metadata, answer.temperature, answer.max_output_tokens) == ({"k": "v"}, 0.5, 9)
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    call = await doorstep.call()
    assert call.request is not None
    assert answer.id == f"resp_{call.id}"
    assert call.request.path == "/v1/responses"
    assert call.request.messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    )
    assert call.request.asked["max_output_tokens"] == 9
    assert call.request.asked["metadata"] == {"k": "v"}
    assert call.request.sent["max_completion_tokens"] == 9
    (sent,) = doorstep.policy.requests
    assert (sent.path, sent.body["max_completion_tokens"]) == ("/v1/chat/completions", 9)
    assert "metadata" not in sent.body
    assert call.answer is not None
    assert call.answer.usage is not None
    assert len(call.answer.choices[0].token_ids or ()) == answer.usage.output_tokens
    assert await doorstep.gaps() == ()


@pytest.mark.parametrize("replies", [[CALL, Reply("warm")]])
async def test_tool_calls_go_out_and_come_back_and_the_turns_merge(doorstep, agent) -> None:
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "how hot"}]}]
    first = await agent.responses.create(model="m", input=items, tools=[WEATHER], parallel_tool_calls=True)
    asked = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    assert [(call.name, call.arguments) for call in asked] == [
        ("weather", '{"city": "Oslo"}'),
        ("weather", '{"city": "Rome"}'),
    ]
    items += [item.to_dict() for item in first.output]
    items += [{"type": "function_call_output", "call_id": call.call_id, "output": "20"} for call in asked]
    second = await agent.responses.create(model="m", input=items, tools=[WEATHER])
    assert second.output_text == "warm"
    assert doorstep.policy.requests[0].body["tools"] == [
        {"type": "function", "function": {name: WEATHER[name] for name in ("name", "description", "parameters")}}
    ]
    one, two = [call.answer for call in await doorstep.store.calls(["a"])]
    assert one is not None
    assert two is not None
    before = (one.prompt_token_ids or ()) + (one.choices[0].token_ids or ())
    assert (two.prompt_token_ids or ())[: len(before)] == before


@pytest.mark.parametrize("replies", [[THOUGHT, Reply("warm"), THOUGHT, Reply("warm")]])
async def test_a_previous_response_stands_for_the_items_that_it_would_take(doorstep, agent) -> None:
    output = {"type": "function_call_output", "call_id": "call_0_0", "output": "20"}
    question = {"role": "user", "content": "how hot"}
    by_items = await agent.responses.create(model="m", input=[question], instructions="one", tools=[WEATHER])
    items = [question, *(item.to_dict() for item in by_items.output), output]
    await agent.responses.create(model="m", input=items, instructions="two", tools=[WEATHER])
    by_id = await agent.responses.create(model="m", input="how hot", instructions="one", tools=[WEATHER])
    answer = await agent.responses.create(
        model="m", input=[output], instructions="two", tools=[WEATHER], previous_response_id=by_id.id
    )
    assert answer.previous_response_id == by_id.id
    sent = [request.body["messages"] for request in doorstep.policy.requests]
    assert sent[3] == sent[1]
    assert sent[1][0] == {"role": "system", "content": "two"}
    assert sent[1][2]["reasoning"] == "where is that"
    assert [message["role"] for message in sent[1]] == ["system", "user", "assistant", "tool"]


async def test_another_rollouts_response_is_not_found_nor_one_that_was_not_to_be_stored(doorstep, agent) -> None:
    stored = await agent.responses.create(model="m", input="hello")
    other = agent.with_options(api_key=doorstep.keys["b"])
    for client, named in ((other, stored.id), (agent, "resp_unknown"), (agent, stored.id.removeprefix("resp_"))):
        with pytest.raises(openai.NotFoundError, match="Previous response with id") as refused:
            await client.responses.create(model="m", input="and then", previous_response_id=named)
        assert refused.value.code == "previous_response_not_found"
    unstored = await agent.responses.create(model="m", input="hello", store=False)
    with pytest.raises(openai.NotFoundError):
        await agent.responses.create(model="m", input="and then", previous_response_id=unstored.id)


@pytest.mark.parametrize(
    "reply",
    [
        Reply("good morning to you"),
        CALL,
        THOUGHT,
        Reply(tool_calls=[("weather", {"city": "Oslo"})]),
        Reply(""),
        Reply("cut of", finish_reason="length"),
        Reply(reasoning="so long a thou", finish_reason="length"),
    ],
    ids=["text", "text and calls", "reasoning", "calls", "nothing", "cut", "cut in thought"],
)
@pytest.mark.parametrize("replies", [[]])
@pytest.mark.parametrize("include", [[], ["message.output_text.logprobs"]], ids=["", "logprobs"])
async def test_a_streams_events_fold_to_the_whole_answer(doorstep, agent, replies, reply, include) -> None:
    replies += [reply, reply]
    whole = await agent.responses.create(model="m", input="hello", tools=[WEATHER], include=include)
    events = [
        event
        async for event in await agent.responses.create(
            model="m", input="hello", tools=[WEATHER], include=include, stream=True
        )
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == f"response.{whole.status}"
    assert content_of(events[-1].response) == content_of(whole)
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.to_dict() for item in done] == [item.to_dict() for item in events[-1].response.output]
    for item in done:
        deltas = [event.delta for event in events if event.type.endswith(".delta") and event.item_id == item.id]
        said = item.arguments if item.type == "function_call" else item.content[0].text
        assert "".join(deltas) == said
    first, second = [call.answer for call in await doorstep.store.calls(["a"])]
    assert first is not None
    assert second is not None
    assert first.choices == second.choices


@pytest.mark.parametrize("replies", [[CALL]])
async def test_the_sdks_own_stream_accumulates_it(doorstep, agent) -> None:
    async with agent.responses.stream(model="m", input="hello", tools=[WEATHER]) as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert final.output_text == "let me see"
    assert [item.type for item in final.output] == ["message", "function_call", "function_call"]
    assert kinds.count("response.function_call_arguments.done") == 2
    assert kinds.index("response.output_item.done") > kinds.index("response.function_call_arguments.delta")


@pytest.mark.parametrize("replies", [[Reply("cut of", finish_reason="length")]])
async def test_an_answer_at_its_length_is_incomplete_and_says_why(agent) -> None:
    answer = await agent.responses.create(model="m", input="hello", max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].to_dict()["status"] == "incomplete"


async def test_log_probabilities_come_when_asked_for(doorstep, agent) -> None:
    answer = await agent.responses.create(model="m", input="hello", include=["message.output_text.logprobs"])
    told = [token["logprob"] for token in answer.output[0].to_dict()["content"][0]["logprobs"]]
    call = await doorstep.call()
    assert call.answer is not None
    assert tuple(told) == call.answer.choices[0].logprobs


async def test_structured_output_and_one_function_are_asked_of_the_policy_as_chat_does(doorstep, agent) -> None:
    schema = {"type": "object", "properties": {}}
    await agent.responses.create(
        model="m",
        input="hello",
        text={"format": {"type": "json_schema", "name": "out", "schema": schema, "strict": True}},
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        reasoning={"effort": "low"},
        extra_body={"top_k": 3},
    )
    body = doorstep.policy.requests[0].body
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "out", "schema": schema, "strict": True},
    }
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert (body["reasoning_effort"], body["top_k"]) == ("low", 3)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"tools": [{"type": "web_search"}]}, r"tools\[0\] is of type 'web_search'.*function tools only"),
        ({"input": [{"role": "user", "content": [PICTURE]}]}, "'input_image', and the policy is a text model"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [PICTURE]}]},
            "'input_image', and the policy is a text model",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "reads no file"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "items are sent whole, not by reference"),
        ({"input": [{"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}]}, "encrypted"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "weather"}]}, "has no arguments"),
        ({"input": 3}, "input must be a text or a list of items"),
        ({"background": True}, "background is not served"),
        ({"conversation": "conv_1"}, "conversation is not served"),
        ({"prompt": {"id": "p"}}, "prompt is not served"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice must be"),
    ],
)
async def test_what_the_policy_cannot_do_is_refused_by_name(doorstep, agent, asked, told) -> None:
    with pytest.raises(openai.BadRequestError, match=told):
        await agent.responses.create(**{"model": "m", "input": "hello", **asked})
    assert doorstep.policy.requests == []


async def test_images_are_refused_in_chat_completions_too(doorstep, agent) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\] has a part of type 'image_url'"):
        await agent.chat.completions.create(model="m", messages=[{"role": "user", "content": [picture]}])
    assert doorstep.policy.requests == []


@pytest.mark.parametrize("replies", [[Reply(status=500), Reply("late")]])
async def test_a_retry_is_a_second_attempt_of_the_same_call(doorstep, agent) -> None:
    retrying = agent.with_options(max_retries=1)
    answer = await retrying.responses.create(model="m", input="hello", extra_headers={"X-Leyden-Call": "mine"})
    assert (answer.output_text, answer.id) == ("late", "resp_mine")
    call = await doorstep.store.call("mine")
    assert [(attempt.number, attempt.status) for attempt in call.attempts] == [(0, "error"), (1, "ok")]


@pytest.mark.parametrize("replies", [[Reply("one two three four five six", cut_after=3)]])
async def test_a_policy_that_dies_in_mid_stream_ends_it_as_failed(doorstep, agent) -> None:
    events = [event async for event in await agent.responses.create(model="m", input="hello", stream=True)]
    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert "did not answer request" in events[-1].response.error.message
    call = await doorstep.call()
    assert call.status == "error"
    assert call.attempts[0].choices[0].token_ids


@pytest.mark.parametrize("replies", [[Reply("one two three four", delay=600.0, delay_after=3)]])
async def test_a_cancelled_stream_leaves_its_partial_tokens(doorstep, agent) -> None:
    named = {"X-Leyden-Call": "mine"}
    stream = await agent.responses.create(model="m", input="hello", stream=True, extra_headers=named)
    async for event in stream:
        if event.type == "response.output_text.delta" and event.delta.strip() == "two":
            break
    await stream.close()
    doorstep.policy.wait_disconnects(1)
    assert await doorstep.gaps("mine") == ()
    call = await doorstep.call()
    assert call.status == "cancelled"
    assert len(call.attempts[0].choices[0].token_ids or ()) == 2


@pytest.mark.parametrize(
    "replies", [[Reply(status=400, error={"message": "maximum context length is 8", "type": "BadRequestError"})]]
)
async def test_a_prompt_that_is_too_long_has_openais_code(agent) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await agent.responses.create(model="m", input="hello")
    assert refused.value.code == "context_length_exceeded"
