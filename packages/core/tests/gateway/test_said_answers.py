"""What the doors say of any answer of the policy, cut into chunks anywhere: as pure functions, without a server."""

import json
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from leyden.errors import BadInput
from leyden.gateway.anthropic.messages import chat_messages as chat_of_messages
from leyden.gateway.anthropic.reply import MessagesReply
from leyden.gateway.responses.items import chat_messages as chat_of_items
from leyden.gateway.responses.reply import ResponsesReply
from leyden.gateway.sse import EventParser

TEXTS = st.lists(st.text(max_size=5), max_size=4)
ARGUMENTS = st.dictionaries(st.text(max_size=3), st.integers(-9, 9) | st.text(max_size=5), max_size=3)
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A whole chat answer, and chunks of it."""
    reasoning, content = draw(TEXTS), draw(TEXTS)
    written = [json.dumps(arguments) for arguments in draw(st.lists(ARGUMENTS, max_size=3))]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"reasoning": piece} for piece in reasoning] + [{"content": piece} for piece in content]
    calls: list[dict[str, Any]] = []
    for number, text in enumerate(written):
        call = {"id": f"call_{number}", "type": "function", "function": {"name": "tool", "arguments": text}}
        calls.append(call)
        cut = draw(st.integers(0, len(text)))
        deltas.append(
            {"tool_calls": [{**call, "index": number, "function": {"name": "tool", "arguments": text[:cut]}}]}
        )
        deltas.append({"tool_calls": [{"index": number, "function": {"arguments": text[cut:]}}]})
    reason = draw(st.sampled_from(["stop", "length", "tool_calls"]))
    message = {"role": "assistant", "content": "".join(content), "reasoning": "".join(reasoning), "tool_calls": calls}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": USAGE}
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}, {"choices": [], "usage": USAGE}]
    return whole, chunks


def events_of(reply: Any, chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    said = reply.opening() + b"".join(map(reply.chunk, chunks)) + reply.closing()
    return [json.loads(data) for data in EventParser().feed(said)]


@given(answers())
def test_a_responses_stream_ends_in_the_whole_answer_and_its_deltas_add_up(answer: Any) -> None:
    whole, chunks = answer
    told = json.loads(ResponsesReply({"model": "m"}, "c").whole(whole))
    events = events_of(ResponsesReply({"model": "m"}, "c"), chunks)
    assert {**events[-1]["response"], "created_at": 0} == {**told, "created_at": 0}
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == list(range(len(told["output"])))
    for item in told["output"]:
        deltas = [event["delta"] for event in events if "delta" in event and event["item_id"] == item["id"]]
        assert "".join(deltas) == (item.get("arguments") or "".join(part["text"] for part in item.get("content", ())))


@given(answers())
def test_an_anthropic_stream_folds_to_the_whole_answer_with_the_sdks_own_accumulator(answer: Any) -> None:
    whole, chunks = answer
    told = json.loads(MessagesReply({"model": "m"}, "c").whole(whole))
    adapter = TypeAdapter(RawMessageStreamEvent)
    snapshot: Any = None
    buffers: dict[int, bytes] = {}
    for event in events_of(MessagesReply({"model": "m"}, "c"), chunks):
        parsed: Any = adapter.validate_python(event)
        snapshot = accumulate_event(event=parsed, current_snapshot=snapshot, json_bufs=buffers)
    folded = snapshot.to_dict()
    assert folded["content"] == told["content"]
    assert (folded["stop_reason"], folded["usage"]) == (told["stop_reason"], told["usage"])


@given(answers())
def test_an_answer_goes_back_to_the_policy_as_the_message_that_it_was(answer: Any) -> None:
    whole, _ = answer
    message = whole["choices"][0]["message"]
    said = {"content": message["content"], "calls": message["tool_calls"]}
    items = json.loads(ResponsesReply({"model": "m"}, "c").whole(whole))["output"]
    (by_items,) = chat_of_items(items)
    assert {"content": by_items["content"], "calls": by_items.get("tool_calls", [])} == said
    assert by_items.get("reasoning", "") == message["reasoning"]
    blocks = json.loads(MessagesReply({"model": "m"}, "c").whole(whole))["content"]
    by_blocks = chat_of_messages([{"role": "assistant", "content": blocks}, {"role": "user", "content": "go on"}])[0]
    for call in [*by_blocks.get("tool_calls", []), *said["calls"]]:
        call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    assert {"content": by_blocks["content"], "calls": by_blocks.get("tool_calls", [])} == said


def test_tool_arguments_that_are_no_json_object_are_said_and_sent_back_as_they_were_written() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "tool", "arguments": '{"city": Oslo'}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    (block,) = json.loads(MessagesReply({"model": "m"}, "c").whole(body))["content"]
    assert block["input"] == '{"city": Oslo'
    sent = chat_of_messages([{"role": "assistant", "content": [block]}, {"role": "user", "content": "what?"}])
    assert sent[0]["tool_calls"] == [call]


@pytest.mark.parametrize("reply", [ResponsesReply, MessagesReply])
def test_a_tool_call_without_a_name_is_the_policys_fault(reply: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"arguments": "{}"}}
    with pytest.raises(BadInput, match="without id or name"):
        reply({"model": "m"}, "c").whole({"choices": [{"index": 0, "message": {"tool_calls": [call]}}]})
