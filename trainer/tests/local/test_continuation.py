"""Conversations under four real chat templates with tools, spoken by a model that spells as it likes."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from leyden.types import Attempt, Call, Choice
from leyden_trainer.local.continuation import Conversations
from leyden_trainer.local.rendering import Renderer
from leyden_trainer.transitions import merge_rate, transitions

TEMPLATES = Path(__file__).parent / "templates"
# name: (special tokens, the ones that end a turn)
SPECIAL = {
    "qwen3": (["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"], ["<|im_end|>"]),
    "smollm2": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], ["<|im_end|>", "<|endoftext|>"]),
    "llama31": (
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"],
        ["<|eot_id|>", "<|eom_id|>"],
    ),
    "mistral": (["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]"], ["</s>"]),
}
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Look it up.", "parameters": {}}}]
START = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it open?"}]


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    special, ends = SPECIAL[name]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    lines = ['{"name": "look", "arguments": {"open": true, "day": 3}}', "the answer is yes", "Is it open?", "\n\n"] * 9
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator(lines, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token=special[0], eos_token=ends[0])
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text()
    return tokenizer


def stops_of(name: str) -> list[int]:
    return [tokenizer_of(name).convert_tokens_to_ids(token) for token in SPECIAL[name][1]]


def conversations_of(name: str) -> Conversations:
    return Conversations(Renderer(tokenizer_of(name)), frozenset(stops_of(name)))


@dataclass(frozen=True)
class Answer:
    """What the model said, as tokens and as the message that the agent's framework sends back."""

    token_ids: tuple[int, ...]
    message: dict
    echo: dict
    """The same message as a framework keeps it: stripped, its JSON spelt anew, with fields more and fields less."""


@st.composite
def answers(draw, name: str) -> Answer:
    tokenizer, stops = tokenizer_of(name), stops_of(name)
    words = draw(st.lists(st.sampled_from(["yes", " no", "the answer", " é", "日", "\n", "  "]), max_size=4))
    content, call = "".join(words), None
    if draw(st.booleans()):
        content = f"<think>\nhm {draw(st.integers(0, 9))}\n</think>\n\n" + content
    raw = content
    if draw(st.booleans()):
        values = st.booleans() | st.integers(-3, 3) | st.none() | st.text('aé"\\ ', max_size=3) | st.floats(-1, 1)
        arguments = draw(st.dictionaries(st.sampled_from(["open", "day", "z"]), values, max_size=3))
        spelt = json.dumps(arguments, separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")])))
        raw += "\n<tool_call>\n" * draw(st.booleans()) + '{"name": "look",  "arguments": ' + spelt + "}"
        call = {"id": "call_012345678", "type": "function", "function": {"name": "look", "arguments": spelt}}
    seam = draw(st.integers(0, len(raw)))  # sampled tokens need not be those that a tokenizer would choose
    ids = [token for part in (raw[:seam], raw[seam:]) for token in tokenizer(part, add_special_tokens=False).input_ids]
    end = draw(st.sampled_from([None, *stops]))
    ids += [] if end is None and ids else [end or stops[0]]
    message = {"role": "assistant", "content": content if call is None else content.rstrip() or None}
    echo = {"content": (message["content"] or "").strip(), "role": "assistant", "refusal": None, "name": None}
    if call is not None:
        message["tool_calls"] = [call]
        again = json.dumps(json.loads(call["function"]["arguments"]))
        echo["tool_calls"] = [{**call, "function": {"arguments": again, "name": "look"}}]
    return Answer(tuple(ids), message, echo)


def reply_to(answer: Answer, number: int) -> list[dict]:
    if "tool_calls" in answer.message:
        return [{"role": "tool", "tool_call_id": "call_012345678", "content": f'{{"open": {number}}}'}]
    return [{"role": "user", "content": f"And {number}?"}]


def call(number: int, prompt: tuple[int, ...], token_ids: tuple[int, ...]) -> Call:
    choice = Choice(message={}, token_ids=token_ids, logprobs=(-1.0,) * len(token_ids))
    attempt = Attempt(
        number=0, status="ok", started_at=0, latency_ms=0, version=1, prompt_token_ids=prompt, choices=(choice,)
    )
    return Call(id=f"{number:02}", rollout_id="r", started_at=number, attempts=(attempt,))


def talk(conversations: Conversations, said: list[Answer], *, session: str | None = "r/1", rewrite: int = -1):
    """The calls of a conversation; before turn `rewrite` the agent changes what its history says."""
    messages, calls = list(START), []
    for number, answer in enumerate(said):
        if number == rewrite:
            messages = [
                *messages[:-2],
                {"role": "assistant", "content": "[cut]"},
                {"role": "user", "content": "Go on."},
            ]
        turn = conversations.turn(session, messages, TOOLS, {})
        turn.remember(answer.message, answer.token_ids)
        calls.append(call(number, turn.prompt_ids, answer.token_ids))
        messages = [*messages, answer.echo, *reply_to(answer, number)]
    return calls


def check_trained_once(calls: list[Call]) -> None:
    built = transitions("r", calls, max_tokens=None)
    spans = [span.call_id for row in built for span in row.spans]
    assert sorted(spans) == [call.id for call in calls]
    assert sum(sum(row.mask) for row in built) == sum(len(call.attempts[0].choices[0].token_ids) for call in calls)


@pytest.mark.parametrize("name", SPECIAL)
@given(data=st.data())
def test_the_same_messages_are_one_row_whatever_the_template_would_make_of_them(name, data):
    said = data.draw(st.lists(answers(name), min_size=2, max_size=5))
    calls = talk(conversations_of(name), said)
    assert len(transitions("r", calls, max_tokens=None)) == 1
    assert merge_rate([calls]) == 1.0
    check_trained_once(calls)


@pytest.mark.parametrize("name", SPECIAL)
@given(data=st.data())
def test_a_rewritten_history_forks_once_and_goes_on_from_there(name, data):
    said = data.draw(st.lists(answers(name), min_size=2, max_size=5))
    calls = talk(conversations_of(name), said, rewrite=data.draw(st.integers(1, len(said) - 1)))
    assert len(transitions("r", calls, max_tokens=None)) == 2
    assert merge_rate([calls]) == pytest.approx((len(said) - 2) / (len(said) - 1))
    check_trained_once(calls)


def spoken(name: str, text: str, **message) -> Answer:
    ids = (*tokenizer_of(name)(text, add_special_tokens=False).input_ids, stops_of(name)[0])
    whole = {"role": "assistant", "content": text, **message}
    return Answer(ids, whole, whole)


@pytest.mark.parametrize("name", ["qwen3", "smollm2", "llama31"])
def test_what_follows_an_answer_is_what_the_template_writes_there(name):
    """Of answers that a template renders as they were sampled, the prompts say what the template's own say.

    Their tokens may differ, where an answer's first letters would melt with the line breaks before it.
    """
    said = [spoken(name, text) for text in ("yes", "the answer", "no")]
    prompts = [
        [
            tokenizer_of(name).decode(call.attempts[0].prompt_token_ids)
            for call in talk(conversations_of(name), said, session=session)
        ]
        for session in ("r/1", None)
    ]
    assert prompts[0] == prompts[1]


def test_mistrals_answers_are_followed_by_the_next_question():
    """Its template shows the tools at the last question only, so they move, and no two of its prompts agree."""
    said = [spoken("mistral", " yes"), spoken("mistral", " no")]
    first, second = talk(conversations_of("mistral"), said)
    prompt, answer = first.attempts[0].prompt_token_ids, first.attempts[0].choices[0].token_ids
    rest = tokenizer_of("mistral").decode(second.attempts[0].prompt_token_ids[len(prompt) + len(answer) :])
    assert rest == "[AVAILABLE_TOOLS] [" + json.dumps(TOOLS[0]) + "][/AVAILABLE_TOOLS][INST] And 0?[/INST]"


@pytest.mark.parametrize(
    ("name", "text", "arguments"),
    [
        ("qwen3", "<think>\nhm\n</think>\n\nyes", None),
        ("smollm2", '<tool_call>{"name": "look", "arguments": {"open":true}}</tool_call>', '{"open":true}'),
        ("llama31", '{"name": "look", "parameters": {"open":true}}', '{"open":true}'),
        ("mistral", "  yes ", None),
    ],
)
def test_these_answers_fork_without_the_continuation(name, text, arguments):
    function = {"name": "look", "arguments": arguments}
    calls = [{"id": "call_012345678", "type": "function", "function": function}]
    answer = spoken(name, text, **({"content": None, "tool_calls": calls} if arguments else {}))
    assert merge_rate([talk(conversations_of(name), [answer] * 3, session=None)]) < 1
    assert merge_rate([talk(conversations_of(name), [answer] * 3)]) == 1


def test_an_answer_is_continued_in_its_own_rollout_only():
    conversations = conversations_of("qwen3")
    answer = spoken("qwen3", "<think>\nhm\n</think>\n\nyes")
    talk(conversations, [answer], session="r/1")
    history = [*START, answer.echo, {"role": "user", "content": "And?"}]
    own = conversations.turn("r/1", history, TOOLS, {}).prompt_ids
    others = [conversations.turn(session, history, TOOLS, {}).prompt_ids for session in ("r/2", "s/1", None)]
    assert len(set(others)) == 1
    assert own != others[0]
    assert "hm" in tokenizer_of("qwen3").decode(own)
    assert "hm" not in tokenizer_of("qwen3").decode(others[0])


def test_other_tools_are_another_conversation():
    conversations = conversations_of("qwen3")
    answer = spoken("qwen3", "<think>\nhm\n</think>\n\nyes")
    talk(conversations, [answer])
    history = [*START, answer.echo, {"role": "user", "content": "And?"}]
    assert "hm" not in tokenizer_of("qwen3").decode(conversations.turn("r/1", history, [], {}).prompt_ids)
