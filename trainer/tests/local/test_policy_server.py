import concurrent.futures
import json
import random
import socket

import httpx
import openai
import pytest

from leyden.errors import BadConfig
from leyden_trainer.local.policy_server import PolicyServer

QUESTION = [{"role": "user", "content": "how hot is it in Oslo"}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture
def server(sampler, tokenizer):
    server = PolicyServer(sampler, tokenizer, model_name="tiny", key="secret")
    server.start()
    yield server
    sampler.close()
    server.stop()


@pytest.fixture
def client(server):
    with openai.OpenAI(base_url=server.url, api_key="secret", max_retries=0) as client:
        yield client


@pytest.fixture
def post(server):
    with httpx.Client(base_url=server.url, headers={"Authorization": "Bearer secret"}, timeout=120) as client:

        def post(path, **body):
            return client.post(path, json=body)

        yield post


def ask(client, **changes):
    return client.chat.completions.create(**{"model": "tiny", "messages": QUESTION, "max_tokens": 20, **changes})


def test_an_answer_has_the_tokens_that_decode_to_its_text(client, tokenizer):
    answer = ask(client, logprobs=True, seed=1, extra_body={"return_token_ids": True})
    choice = answer.choices[0]
    assert tokenizer.decode(choice.token_ids, skip_special_tokens=True) == choice.message.content
    assert answer.prompt_token_ids == tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False
    )
    assert len(choice.logprobs.content) == len(choice.token_ids) == answer.usage.completion_tokens
    assert answer.usage.prompt_tokens == len(answer.prompt_token_ids)
    assert answer.model_version == 0


def test_an_answer_has_no_more_than_was_asked(client):
    answer = ask(client)
    assert answer.choices[0].logprobs is None
    assert "token_ids" not in answer.choices[0].model_extra
    assert "prompt_token_ids" not in answer.model_extra


@pytest.mark.parametrize("seed", range(6))
def test_a_stream_is_the_whole_answer_in_pieces(client, seed):
    fields = {"logprobs": True, "seed": seed, "n": 2, "extra_body": {"return_token_ids": True}, "max_tokens": 40}
    whole = ask(client, **fields)
    text, ids, logprobs, reasons = {0: "", 1: ""}, {0: [], 1: []}, {0: [], 1: []}, {}
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **fields))
    for chunk in chunks:
        for choice in chunk.choices:
            text[choice.index] += choice.delta.content or ""
            ids[choice.index] += choice.token_ids
            logprobs[choice.index] += [token.logprob for token in choice.logprobs.content]
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
    for choice in whole.choices:
        assert text[choice.index] == choice.message.content
        assert ids[choice.index] == choice.token_ids
        assert logprobs[choice.index] == pytest.approx([t.logprob for t in choice.logprobs.content], abs=1e-5)
        assert reasons[choice.index] == choice.finish_reason
    assert chunks[-1].usage == whole.usage
    assert chunks[0].prompt_token_ids == whole.prompt_token_ids
    assert {chunk.model_version for chunk in chunks} == {0}


def test_choices_differ_and_a_seed_repeats_them(client):
    first, again = (ask(client, n=4, seed=3) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) == 4
    assert texts == [choice.message.content for choice in again.choices]


def test_without_a_limit_the_answer_may_fill_the_context(client):
    answer = client.chat.completions.create(model="tiny", messages=QUESTION, temperature=0)
    used = answer.usage.total_tokens
    assert used == 512 if answer.choices[0].finish_reason == "length" else used < 512


def test_a_stop_string_ends_the_answer_and_is_not_in_it(client):
    free = ask(client, seed=1, max_tokens=30).choices[0].message.content
    stop = free[8:10]
    answer = ask(client, seed=1, max_tokens=30, stop=[stop, "never said"])
    assert answer.choices[0].message.content == free[: free.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 30
    chunks = ask(client, seed=1, max_tokens=30, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == free[: free.index(stop)]


def test_text_and_token_id_prompts_are_completed_alike(client, tokenizer):
    fields = {"model": "tiny", "seed": 5, "max_tokens": 12, "logprobs": 0, "extra_body": {"return_token_ids": True}}
    by_text = client.completions.create(prompt="how hot is it", **fields)
    by_ids = client.completions.create(prompt=tokenizer("how hot is it").input_ids, **fields)
    assert by_text.choices[0].text == by_ids.choices[0].text
    assert by_text.prompt_token_ids == by_ids.prompt_token_ids == tokenizer("how hot is it").input_ids
    assert len(by_text.choices[0].logprobs.token_logprobs) == len(by_text.choices[0].token_ids) == 12
    chunks = list(client.completions.create(prompt="how hot is it", stream=True, **fields))
    assert "".join(chunk.choices[0].text for chunk in chunks) == by_text.choices[0].text


def test_the_model_is_listed_with_its_context_and_version(client):
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len, model.model_version) == ("tiny", 512, 0)


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(client):
    with pytest.raises(openai.BadRequestError, match=r"512 tokens, and the prompt has \d{3,}") as refused:
        ask(client, messages=[{"role": "user", "content": "zqx" * 400}])
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    "field",
    [
        {"presence_penalty": 0.5},
        {"frequency_penalty": -1},
        {"logit_bias": {"5": 1}},
        {"response_format": {"type": "json_object"}},
        {"top_logprobs": 3, "logprobs": True},
        {"tool_choice": "required", "tools": TOOLS},
        {"guided_json": {}},
        {"top_k": 5},
        {"no_such_field": 1},
        {"temperature": -1},
        {"top_p": 0},
        {"max_tokens": 0},
        {"max_completion_tokens": "many"},
        {"stop": ""},
        {"stop": ["a", ""]},
        {"n": 0},
        {"messages": []},
    ],
)
def test_what_cannot_be_done_is_refused_by_name(post, field):
    response = post("/chat/completions", **{"model": "tiny", "messages": QUESTION, **field})
    assert response.status_code == 400
    assert next(iter(field)) in response.json()["error"]["message"]


def test_fields_that_ask_for_nothing_are_taken(post):
    nothing = {"presence_penalty": 0.0, "logit_bias": {}, "top_k": -1, "response_format": {"type": "text"}}
    ignored = {"user": "me", "metadata": {"a": "b"}, "top_p": None, "parallel_tool_calls": True}
    body = {"model": "tiny", "messages": QUESTION, "max_completion_tokens": 3, **nothing, **ignored}
    response = post("/chat/completions", **body)
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] <= 3


@pytest.mark.parametrize(
    "content", [5, [{"type": "image_url", "image_url": {"url": "x"}}], [{"type": "text"}], ["text"]]
)
def test_content_that_is_not_text_is_refused(post, content):
    response = post("/chat/completions", messages=[{"role": "user", "content": content}])
    assert response.status_code == 400
    assert "message content" in response.json()["error"]["message"]


def test_content_in_parts_is_the_same_as_in_one(client):
    parts = [{"type": "text", "text": "how hot "}, {"type": "text", "text": "is it in Oslo"}]
    assert (
        ask(client, seed=1).choices[0].message
        == ask(client, seed=1, messages=[{"role": "user", "content": parts}]).choices[0].message
    )


def test_a_template_that_fails_is_a_bad_request(loaded, sampler, post, tokenizer):
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    response = post("/chat/completions", messages=QUESTION)
    assert (response.status_code, "roles must alternate" in response.text) == (400, True)


def test_a_model_without_a_template_says_what_to_use(post, tokenizer):
    tokenizer.chat_template = None
    response = post("/chat/completions", messages=QUESTION)
    assert (response.status_code, "/v1/completions" in response.text) == (400, True)


@pytest.mark.parametrize("body", ["{", "[]", '"text"'])
def test_a_body_that_is_no_json_object_is_a_bad_request(server, body):
    url, headers = f"{server.url}/chat/completions", {"Authorization": "Bearer secret"}
    assert httpx.post(url, content=body, headers=headers).status_code == 400


def test_token_ids_outside_the_vocabulary_are_refused(post):
    response = post("/completions", prompt=[3, 512])
    assert (response.status_code, "token id 512" in response.text) == (400, True)


def test_the_wrong_key_opens_nothing(server):
    with openai.OpenAI(base_url=server.url, api_key="guess", max_retries=0) as client:
        for call in (lambda: ask(client), client.models.list):
            with pytest.raises(openai.AuthenticationError):
                call()


def test_an_answer_names_the_version_that_sampled_it(client, sampler):
    sampler.pause()
    sampler.resume(version=7)
    assert ask(client).model_version == 7


LONG = {"messages": QUESTION, "temperature": 2.0, "seed": 1, "n": 4}


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_frees_the_sampler(server, sampler, post, stream):
    post("/chat/completions", **LONG)
    undisturbed = sampler.num_sampled
    body = json.dumps({**LONG, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {server.key}\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while sampler.num_sampled == undisturbed:
            pass
    sampler.pause()
    assert sampler.num_sampled - undisturbed < undisturbed


def test_a_stopped_sampler_is_unavailable(client, sampler):
    sampler.close()
    with pytest.raises(openai.InternalServerError) as refused:
        ask(client)
    assert refused.value.status_code == 503


class Parrot:
    """A model that says the same text whatever it is asked; the sampler, server and tokenizer around it are real."""

    def __init__(self, model, tokenizer, text: str) -> None:
        self.script = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
        self.model = model
        self.start = None
        model.lm_head.register_forward_hook(self._speak)

    def _speak(self, module, inputs, logits):
        if self.start is None:
            self.start = 0
        forced = logits.new_full(logits.shape, -1e9)
        forced[..., self.script[min(self.start, len(self.script) - 1)]] = 0
        self.start += 1
        return forced


CALL = 'So: <tool_call>{"name": "weather", "arguments": {"city": "Oslo", "days": [1, 2]}}</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_are_parsed_and_go_back_into_the_prompt(client, model, tokenizer, stream):
    Parrot(model, tokenizer, CALL)
    answer = ask(client, tools=TOOLS, temperature=0, max_tokens=200, stream=stream)
    message, reason = _joined(answer) if stream else (answer.choices[0].message.model_dump(), "tool_calls")
    assert reason == "tool_calls"
    assert message["content"] == "So:"
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo", "days": [1, 2]}

    said = {"role": "assistant", "content": message["content"], "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call["id"], "content": "12 degrees"}
    again = ask(client, messages=[*QUESTION, said, result], tools=TOOLS, extra_body={"return_token_ids": True})
    prompt = tokenizer.decode(again.prompt_token_ids)
    # Templates write arguments as objects; a string would come out quoted twice.
    assert '"arguments": {"city": "Oslo", "days": [1, 2]}' in prompt
    assert "<|im_start|>tool\n12 degrees<|im_end|>" in prompt
    assert '"name": "weather"' in prompt.split("<|im_end|>")[0]


def _joined(chunks):
    content, calls, reason = "", [], None
    for chunk in chunks:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        calls += [call.model_dump() for call in choice.delta.tool_calls or []]
        reason = choice.finish_reason or reason
    return {"content": content, "tool_calls": calls}, reason


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>not json</tool_call>",
        '<tool_call>{"name": "weather"',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "Oslo"}</tool_call> and',
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_invalid_tool_call_stays_text(client, model, tokenizer, text, stream):
    Parrot(model, tokenizer, text)
    answer = ask(client, tools=TOOLS, temperature=0, max_tokens=200, stream=stream)
    if stream:
        message, reason = _joined(answer)
    else:
        message, reason = answer.choices[0].message.model_dump(), answer.choices[0].finish_reason
    assert (message["content"], message["tool_calls"] or None, reason) == (text, None, "stop")


def test_a_tool_call_without_tools_is_text(client, model, tokenizer):
    Parrot(model, tokenizer, CALL)
    message = ask(client, temperature=0, max_tokens=200).choices[0].message
    assert (message.content, message.tool_calls) == (CALL, None)


def test_a_character_of_several_tokens_is_streamed_whole(client, model, tokenizer):
    text = "grün 漢字 🎈!"
    assert len(tokenizer(text).input_ids) > len(text)
    Parrot(model, tokenizer, text)
    pieces = [chunk.choices[0].delta.content or "" for chunk in ask(client, temperature=0, stream=True, max_tokens=100)]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_arguments_that_are_no_json_are_refused(post):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{oops"}}
    said = {"role": "assistant", "content": None, "tool_calls": [call]}
    response = post("/chat/completions", messages=[*QUESTION, said], tools=TOOLS)
    assert (response.status_code, "'c1' are not JSON" in response.json()["error"]["message"]) == (400, True)


def test_many_clients_at_once_get_their_own_answers(server, tokenizer):
    """Each with its own seed: what it gets is what it gets alone."""
    rng = random.Random(0)
    questions = [[{"role": "user", "content": f"how hot is it in {rng.randrange(1000)}"}] for _ in range(24)]
    with openai.OpenAI(base_url=server.url, api_key="secret", max_retries=0) as client:

        def text(number):
            return ask(client, messages=questions[number], seed=number).choices[0].message.content

        alone = [text(number) for number in range(24)]
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            assert list(pool.map(text, range(24))) == alone


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_turn_begins_with_the_tokens_of_the_last(client, stream):
    """An untrained model's bytes are often no text at all, so no rendering of its messages could give them back."""
    messages, tokens = list(QUESTION), []
    for seed in range(3):
        fields = {"logprobs": True, "seed": seed, "extra_body": {"return_token_ids": True}, "messages": messages}
        answer = ask(client, stream=stream, extra_headers={"X-Leyden-Rollout": "r/1"}, **fields)
        chunks = list(answer) if stream else [answer]
        prompt, parts = chunks[0].prompt_token_ids, [chunk.choices[0] for chunk in chunks]
        assert prompt[: len(tokens)] == tokens
        tokens = prompt + [token for part in parts for token in part.token_ids]
        said = "".join((part.delta if stream else part.message).content or "" for part in parts)
        messages = [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": "and in Rome"}]


def test_it_serves_on_the_address_that_it_is_given(sampler, tokenizer):
    server = PolicyServer(sampler, tokenizer, model_name="tiny", key="secret", host="127.0.0.2")
    server.start()
    assert server.url.startswith("http://127.0.0.2:")
    headers = {"Authorization": "Bearer secret"}
    assert httpx.get(f"{server.url}/models", headers=headers).json()["data"][0]["id"] == "tiny"
    sampler.close()
    server.stop()


def test_it_is_not_served_to_other_machines_without_a_key(sampler, tokenizer):
    with pytest.raises(BadConfig, match=r"refusing to serve the policy on 192\.0\.2\.1 without a key"):
        PolicyServer(sampler, tokenizer, model_name="tiny", host="192.0.2.1")


def test_a_port_in_use_is_named_with_the_setting_to_change(server, sampler, tokenizer):
    port = httpx.URL(server.url).port
    with pytest.raises(BadConfig, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*choose another with trainer\.port"):
        PolicyServer(sampler, tokenizer, model_name="tiny", key="secret", port=port)
