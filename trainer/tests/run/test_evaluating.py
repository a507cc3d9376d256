"""`leyden eval` and `leyden serve-model` as a user types them, on tiny models made on the spot."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from openai import OpenAI

from leyden_trainer.testing import make_tiny_model

Leyden = Callable[..., subprocess.CompletedProcess[str]]
AGENT = """
from openai import OpenAI

def solve(task):
    answer = OpenAI(api_key="none").chat.completions.create(
        model="gpt-4o-mini", max_tokens=4, messages=[{"role": "user", "content": task["question"]}]
    )
    return answer.choices[0].message.content
"""
REWARD = "def score(task, result):\n    return len(result) % 2 == 0\n"


@pytest.fixture
def folder(write_folder: Callable[..., Path]) -> Path:
    folder = write_folder(AGENT, REWARD, train=("Oslo", "Rome"), heldout=("Tunis", "Dakar", "Praha"))
    make_tiny_model(folder / "other", seed=1)
    return folder


def test_two_checkpoints_are_compared_on_the_same_tasks_and_written_down(folder: Path, leyden: Leyden) -> None:
    done = leyden("eval", "train.toml", "--checkpoint", "base", "--checkpoint", "other", "--tries", "2", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert (record["num_tasks"], record["tries"], record["temperature"]) == (3, 2, 1.0)
    base, other = record["checkpoints"]
    assert [len(tries) for tries in base["rewards"]] == [2, 2, 2]
    assert base["mean_reward"] == pytest.approx(sum(map(sum, base["rewards"])) / 6)
    assert set(base["pass"]) == {"1", "2"}
    assert base["incomplete"] == other["incomplete"] == 0
    assert record["comparison"]["gain"] == pytest.approx(other["mean_reward"] - base["mean_reward"])
    saved = folder / "runs" / "tiny-eval"
    assert json.loads((saved / "evaluation.json").read_text()) == record
    assert "other against base" in (saved / "evaluation.md").read_text()
    shown = leyden("show", "tiny-eval-c1-3-r1", "--store", str(saved / "store.sqlite"), "--json")
    assert json.loads(shown.stdout)["calls"][0]["attempts"][0]["version"] == 1


def test_the_base_is_given_its_prompts_as_training_gives_them(folder: Path, leyden: Leyden) -> None:
    """By `model.chat_template`, which the checkpoints have and the base's own folder has not."""
    (folder / "bare.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    lengths = []
    for name, flags in (("own", ()), ("bare", ("--model.chat_template=bare.jinja",))):
        done = leyden("eval", "train.toml", "--checkpoint", "base", f"--name={name}", *flags)
        assert done.returncode == 0, done.stderr
        store = str(folder / "runs" / f"{name}-eval" / "store.sqlite")
        shown = leyden("show", f"{name}-eval-c0-1-r0", "--store", store, "--json")
        lengths.append(len(json.loads(shown.stdout)["calls"][0]["attempts"][0]["prompt_token_ids"]))
    assert lengths[1] < lengths[0]


def test_a_run_that_left_no_best_checkpoint_is_evaluated_by_its_last(folder: Path, leyden: Leyden) -> None:
    """As verl leaves them."""
    shutil.copytree(folder / "other", folder / "runs" / "tiny" / "checkpoints" / "last")
    done = leyden("eval", "train.toml", "--json")
    assert [checkpoint["name"] for checkpoint in json.loads(done.stdout)["checkpoints"]] == ["last"]
    named = leyden("eval", "train.toml", "--checkpoint", "runs/tiny", "--json")
    rewards = [json.loads(told.stdout)["checkpoints"][0]["rewards"] for told in (done, named)]
    assert rewards[0] == rewards[1]


def test_what_cannot_be_evaluated_is_one_clear_error(folder: Path, leyden: Leyden) -> None:
    assert "no run named tiny" in leyden("eval", "train.toml").stderr
    many = leyden("eval", "train.toml", "--checkpoint", "base", "--k", "3")
    assert (many.returncode, "--k [3] needs k from 1 to --tries 1" in many.stderr) == (2, True)
    wrong = leyden("eval", "train.toml", "--checkpoint", "base", "--checkpoint", "othr")
    assert (wrong.returncode, "there is no model in othr" in wrong.stderr) == (2, True)
    assert not (folder / "runs").exists()
    begun = folder / "runs" / "begun"
    begun.mkdir(parents=True)
    (begun / "config.json").write_text('{"name": "begun"}')  # a run's, not a model's
    wrong = leyden("eval", "train.toml", "--checkpoint", "base", "--checkpoint", str(begun))
    assert (wrong.returncode, f"there is no model in {begun}, and no checkpoint" in wrong.stderr) == (2, True)
    assert [path.name for path in (folder / "runs").iterdir()] == ["begun"]


def test_a_served_model_answers_the_same_agent_until_it_is_stopped(folder: Path, leyden: Leyden) -> None:
    command = [sys.executable, "-m", "leyden", "serve-model", "model", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "LEYDEN_MODEL_KEY": "sesame"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split(" on ")[1].strip()
        messages = [{"role": "user", "content": "hello"}]
        answer = OpenAI(base_url=url, api_key="sesame").chat.completions.create(
            model="gpt-4o-mini", messages=messages, max_tokens=3
        )
        assert answer.usage is not None
        assert 1 <= answer.usage.completion_tokens <= 3
        with pytest.raises(Exception, match="the key is missing or wrong"):
            OpenAI(base_url=url, api_key="other", max_retries=0).models.list()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_a_folder_without_a_model_is_not_served(folder: Path, leyden: Leyden) -> None:
    done = leyden("serve-model", "nothing")
    assert (done.returncode, "there is no model in nothing" in done.stderr) == (2, True)
