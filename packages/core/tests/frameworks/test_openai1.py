"""Plain code on the oldest client that the hook supports. `make test-frameworks` runs it on openai 1."""

from typing import Any

import openai

from leyden.testing.fake_server import Reply

ASKED: Any = [{"role": "user", "content": "hi"}]


def test_plain_code_whole_and_streamed_is_trainable_and_unstructured(trained_calls: Any) -> None:
    def agent(url: str) -> list[str]:
        client = openai.OpenAI(base_url=url, api_key="sk-x")
        whole = client.chat.completions.create(model="m", messages=ASKED).choices[0].message.content
        stream = client.chat.completions.create(model="m", messages=ASKED, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
        return [whole or "", "".join(pieces)]

    calls, said = trained_calls([Reply("one"), Reply("two words")], agent)
    assert said == ["one", "two words"]
    assert [call.request.asked.get("stream") for call in calls] == [None, True]


def test_a_call_is_one_over_its_retries(trained_calls: Any) -> None:
    def agent(url: str) -> str:
        client = openai.OpenAI(base_url=url, api_key="sk-x", max_retries=1)
        return client.chat.completions.create(model="m", messages=ASKED).choices[0].message.content or ""

    (call,), said = trained_calls([Reply(status=503), Reply("one")], agent)
    assert said == "one"
    assert [attempt.status for attempt in call.attempts] == ["error", "ok"]
