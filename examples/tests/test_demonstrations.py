"""Examples that warm up on demonstrations: their agents ask just what these show, and train on a tiny model."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from leyden.testing.fake_server import FakeServer, Reply
from leyden_trainer.local.rendering import Renderer
from leyden_trainer.testing import make_tiny_model, warm_tiny_model

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "tiny-models"
Leyden = Callable[..., str]


@pytest.fixture(params=["math_tools", "multihop_qa"])
def folder(copied: Callable[[str], Path], request: pytest.FixtureRequest) -> Path:
    """A copy of the example with a few tasks."""
    place = copied(request.param)
    command = [sys.executable, "make_tasks.py", "--train", "8", "--heldout", "2"]
    subprocess.run(command, cwd=place, check=True)
    return place


def first(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text().splitlines()[0])


def test_the_agent_sends_what_its_demonstrations_show_and_is_rewarded(folder: Path, leyden: Leyden) -> None:
    subprocess.run([sys.executable, "make_demos.py", "--habit", "0"], cwd=folder, check=True)
    task, demo = first(folder / "train.jsonl"), first(folder / "demos.jsonl")
    (folder / "one.jsonl").write_text(json.dumps(task))
    asked: list[dict[str, Any]] = []

    def policy(body: dict[str, Any], headers: Any) -> Reply:
        asked.append(body)
        turn = [message for message in demo["messages"] if message["role"] == "assistant"][len(asked) - 1]
        called = [call["function"] for call in turn.get("tool_calls", ())]
        return Reply(
            turn["content"] or "", tool_calls=[(call["name"], json.loads(call["arguments"])) for call in called]
        )

    with FakeServer(policy) as server:
        model = ("--model-url", server.url, "--model", "fake")
        told = leyden(folder, "run", "agent.py:solve", "--tasks", "one.jsonl", "--reward", "reward.py:score", *model)
    assert "mean reward 1.000 over 1 complete rollouts" in told
    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(folder / "model"))
    tokenizer.chat_template = (folder.parent / "chatml_tools.jinja").read_text()
    renderer = Renderer(tokenizer)
    places = [place for place, message in enumerate(demo["messages"]) if message["role"] == "assistant"]
    assert len(asked) == len(places) > 1
    for body, place in zip(asked, places, strict=True):
        shown = renderer.text(demo["messages"][:place], demo["tools"], {})
        assert renderer.text(body["messages"], body["tools"], {}) == shown


@pytest.mark.slow
def test_it_warms_up_and_trains_two_steps_on_a_tiny_model(folder: Path, leyden: Leyden) -> None:
    subprocess.run([sys.executable, "make_demos.py", "--count", "8"], cwd=folder, check=True)
    # It learns to answer at once, with few tokens: an SDK may raise if an answer is cut off.
    demo = first(folder / "demos.jsonl")
    demo["messages"] = [*demo["messages"][:2], demo["messages"][-1]]
    (folder / "demos.jsonl").write_text(json.dumps(demo) + "\n")
    model = shutil.copytree(warm_tiny_model(CACHE), folder / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    flags = {
        "model.path": "model",
        "model.layers": 2,
        "warm_start.epochs": 100,
        "sampling.temperature": 0.5,
        "warm_start.learning_rate": 3e-3,
        "model.device": "cpu",
        "model.context_length": 2048,
        "sampling.max_tokens": 200,
        "trainer.steps": 2,
        "trainer.tasks_per_step": 1,
        "trainer.rollouts_per_task": 4,
    }
    leyden(folder, "train", "cpu.toml", *(f"--{name}={value}" for name, value in flags.items()))
    run = folder / "runs" / folder.name
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["failed"] for record in records if "failed" in record] == [0, 0]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["rollouts"]) == (2, 8)
    assert summary["seconds_warm_start"] > 0
