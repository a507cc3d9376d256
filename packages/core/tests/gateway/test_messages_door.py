from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from leyden.runner.failures import judge
from leyden.testing.fake_server import Reply

WEATHER = {
    "name": "weather",
    "description": "how hot it is",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    "cache_control": {"type": "ephemeral"},
}
CALL = Reply("let me see", tool_calls=[("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})])
HELLO: list[Any] = [{"role": "user", "content": "hello"}]
ASKED: dict[str, Any] = {"model": "claude-x", "max_tokens": 9, "messages": HELLO}
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


@pytest.fixture
async def agent(doorstep) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=doorstep.url, api_key=doorstep.keys["a"], max_retries=0) as client:
        yield client


def without_id(message: Any) -> dict[str, Any]:
    return {name: value for name, value in message.to_dict(exclude_none=True).items() if name != "id"}


async def test_a_text_is_answered_and_its_exact_tokens_are_on_record(doorstep, agent) -> None:
    system = [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]
    extra = {"temperature": 0.5, "top_k": 3}
    answer = await agent.messages.create(
        **ASKED, system=system, stop_sequences=["END"], metadata={"user_id": "u"}, extra_body=extra
    )
    assert [(block.type, block.text) for block in answer.content] == [("text", "good morning")]
    assert (answer.stop_reason, answer.model) == ("end_turn", "claude-x")
    call = await doorstep.call()
    assert answer.id == f"msg_{call.id}"
    assert call.request is not None
    assert call.request.path == "/v1/messages"
    assert call.request.messages == ({"role": "system", "content": "be brief"}, *HELLO)
    assert call.request.asked["stop_sequences"] == ["END"]
    (sent,) = doorstep.policy.requests
    told = {name: sent.body[name] for name in ("max_tokens", "temperature", "top_k", "stop")}
    assert told == {"max_tokens": 9, "temperature": 0.5, "top_k": 3, "stop": ["END"]}
    assert sent.path == "/v1/chat/completions"
    assert "metadata" not in sent.body
    assert call.answer is not None
    assert len(call.answer.choices[0].token_ids or ()) == answer.usage.output_tokens
    assert len(call.answer.prompt_token_ids or ()) == answer.usage.input_tokens
    assert await doorstep.gaps() == ()


@pytest.mark.parametrize("replies", [[CALL, Reply("warm")]])
async def test_tool_calls_go_out_and_come_back_and_the_turns_merge(doorstep, agent) -> None:
    first = await agent.messages.create(**ASKED, tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    uses = [block for block in first.content if block.type == "tool_use"]
    assert [(use.name, use.input) for use in uses] == [("weather", {"city": "Oslo"}), ("weather", {"city": "Rome"})]
    results = [{"type": "tool_result", "tool_use_id": use.id, "content": "20"} for use in uses]
    history = [
        *HELLO,
        {"role": "assistant", "content": [block.to_dict() for block in first.content]},
        {"role": "user", "content": [*results, {"type": "text", "text": "and?"}]},
    ]
    second = await agent.messages.create(model="m", max_tokens=9, messages=history, tools=[WEATHER])
    assert second.content[0].to_dict()["text"] == "warm"
    sent = doorstep.policy.requests[1].body
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "tool", "tool", "user"]
    function = {"name": "weather", "description": "how hot it is", "parameters": WEATHER["input_schema"]}
    assert sent["tools"] == [{"type": "function", "function": function}]
    one, two = [call.answer for call in await doorstep.store.calls(["a"])]
    assert one is not None
    assert two is not None
    before = (one.prompt_token_ids or ()) + (one.choices[0].token_ids or ())
    assert (two.prompt_token_ids or ())[: len(before)] == before


@pytest.mark.parametrize(
    "reply",
    [
        Reply("good morning to you"),
        CALL,
        Reply(tool_calls=[("weather", {})]),
        Reply("let me see", reasoning="where is that"),
        Reply(""),
        Reply("cut of", finish_reason="length"),
        Reply("so far", stop_reason="END"),
    ],
    ids=["text", "text and calls", "call", "reasoning", "nothing", "cut", "stopped"],
)
@pytest.mark.parametrize("replies", [[]])
async def test_the_sdks_own_stream_folds_to_the_whole_answer(doorstep, agent, replies, reply) -> None:
    replies += [reply, reply]
    whole = await agent.messages.create(**ASKED, tools=[WEATHER], stop_sequences=["END"])
    async with agent.messages.stream(**ASKED, tools=[WEATHER], stop_sequences=["END"]) as stream:
        kinds = [event.type async for event in stream]
        folded = await stream.get_final_message()
    assert without_id(folded) == without_id(whole)
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(whole.content)
    first, second = [call.answer for call in await doorstep.store.calls(["a"])]
    assert first is not None
    assert second is not None
    assert first.choices == second.choices


@pytest.mark.parametrize("replies", [[Reply("so far", stop_reason="END"), Reply("cut of", finish_reason="length")]])
async def test_an_answer_says_why_it_stopped(agent) -> None:
    stopped = await agent.messages.create(**ASKED, stop_sequences=["END"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "END")
    assert (await agent.messages.create(**ASKED)).stop_reason == "max_tokens"


async def test_one_tool_and_a_schema_are_asked_of_the_policy_as_chat_does(doorstep, agent) -> None:
    schema = {"type": "object", "properties": {}}
    await agent.messages.create(
        **ASKED,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    body = doorstep.policy.requests[0].body
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["parallel_tool_calls"] is False
    assert body["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "of type 'image', and the policy is a text model"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [PICTURE]}]}
                ]
            },
            "of type 'image', and the policy is a text model",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "reads no document"),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "y"}]}]},
            "is a thinking block, signed by the provider",
        ),
        ({"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "beginning an answer for the policy"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking is not served"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, r"tools\[0\] is of type 'web_search_"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type must be"),
        ({"extra_body": {"max_tokens": None}}, "max_tokens must be a whole number"),
        ({"extra_body": {"mcp_servers": [{"url": "x"}]}}, "mcp_servers is not served"),
    ],
)
async def test_what_the_policy_cannot_do_is_refused_by_name(doorstep, agent, asked, told) -> None:
    with pytest.raises(anthropic.BadRequestError, match=told) as refused:
        await agent.messages.create(**{**ASKED, **asked})
    assert refused.value.type == "invalid_request_error"
    assert doorstep.policy.requests == []


async def test_errors_have_anthropics_shape(doorstep, agent) -> None:
    wrong = agent.with_options(api_key="wrong")
    with pytest.raises(anthropic.PermissionDeniedError) as refused:
        await wrong.messages.create(**ASKED)
    assert refused.value.type == "permission_error"
    with pytest.raises(anthropic.NotFoundError, match="does not count tokens") as absent:
        await agent.messages.count_tokens(model="m", messages=HELLO)
    assert absent.value.type == "not_found_error"
    bearer = anthropic.AsyncAnthropic(base_url=doorstep.url, auth_token=doorstep.keys["a"], max_retries=0)
    async with bearer:
        assert (await bearer.messages.create(**ASKED)).stop_reason == "end_turn"


@pytest.mark.parametrize(
    "replies",
    [
        [
            Reply(status=400, error={"message": "maximum context length is 8", "type": "BadRequestError"}),
            Reply(status=529, error={"message": "too many", "type": "overloaded"}),
        ]
    ],
)
async def test_the_policys_errors_too_and_they_are_on_record_and_judged_as_openais_are(doorstep, agent) -> None:
    with pytest.raises(anthropic.BadRequestError, match="maximum context length") as refused:
        await agent.messages.create(**ASKED)
    assert refused.value.error_code == "context_length_exceeded"
    assert judge(refused.value).failure.kind == "context_overflow"
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        await agent.messages.create(**ASKED)
    assert (overloaded.value.status_code, overloaded.value.type) == (529, "overloaded_error")
    assert judge(overloaded.value).status == "lost"
    assert [call.attempts[0].http_status for call in await doorstep.store.calls(["a"])] == [400, 529]


@pytest.mark.parametrize("replies", [[Reply(status=500), Reply("late")]])
async def test_a_retry_with_the_calls_id_is_its_second_attempt(doorstep, agent) -> None:
    retrying = agent.with_options(max_retries=1)
    answer = await retrying.messages.create(**ASKED, extra_headers={"X-Leyden-Call": "mine"})
    assert answer.id == "msg_mine"
    call = await doorstep.store.call("mine")
    assert [(attempt.number, attempt.status) for attempt in call.attempts] == [(0, "error"), (1, "ok")]


@pytest.mark.parametrize("replies", [[Reply("one two three four five six", cut_after=3)]])
async def test_a_policy_that_dies_in_mid_stream_ends_it_with_an_error(doorstep, agent) -> None:
    stream = await agent.messages.create(**ASKED, stream=True)
    with pytest.raises(anthropic.APIError, match="did not answer request"):
        [event async for event in stream]
    call = await doorstep.call()
    assert call.status == "error"
    assert call.attempts[0].choices[0].token_ids


@pytest.mark.parametrize("replies", [[Reply("one two three four", delay=600.0, delay_after=3)]])
async def test_a_cancelled_stream_leaves_its_partial_tokens(doorstep, agent) -> None:
    stream = await agent.messages.create(**ASKED, stream=True, extra_headers={"X-Leyden-Call": "mine"})
    async for event in stream:
        if event.type == "content_block_delta" and event.delta.text.strip() == "two":
            break
    await stream.close()
    doorstep.policy.wait_disconnects(1)
    assert await doorstep.gaps("mine") == ()
    call = await doorstep.call()
    assert call.status == "cancelled"
    assert len(call.attempts[0].choices[0].token_ids or ()) == 2
