import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leyden.testing.fake_server import FakeServer, Reply


def test_the_distractor_speaks_once_and_its_words_reach_nobody(
    copied: Callable[[str], Path], leyden: Callable[..., str]
) -> None:
    folder = copied("calculator_langgraph")
    (folder / "one.jsonl").write_text(json.dumps({"question": "Ann has 2 hats and buys 3. How many?", "answer": 5}))
    asked: list[str] = []
    answers = ["What nice hats!", "CALC(2+3)", "ANSWER(5)"]

    def policy(body: dict[str, Any], headers: Any) -> Reply:
        asked.append(json.dumps(body["messages"]))
        return Reply(answers[len(asked) - 1])

    with FakeServer(policy) as server:
        model = ("--model-url", server.url, "--model", "fake")
        told = leyden(
            folder, "run", "with_distractor.py:solve", "--tasks", "one.jsonl", "--reward", "reward.py:score", *model
        )
    assert "mean reward 1.000 over 1 complete rollouts" in told
    assert len(asked) == 3
    assert not any("What nice hats!" in messages for messages in asked)
