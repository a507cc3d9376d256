"""A server, a runner and a trainer that were each started alone, as if on three machines."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

AGENT = """
from openai import OpenAI

def solve(task):
    asked = [{"role": "user", "content": task["question"]}]
    answer = OpenAI(api_key="mine").chat.completions.create(model="any", messages=asked, max_tokens=4)
    return answer.choices[0].message.content
"""
REWARD = """
def score(task, result):
    return len(result) % 3 == 0
"""
CONFIG = """
[trainer]
steps = 1
tasks_per_step = 2
rollouts_per_task = 4
"""
KEY = "the operator's key of this test"


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "leyden", *arguments]
    environment = {**os.environ, "LEYDEN_KEY": KEY}
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_each_part_can_be_started_alone(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    """The trainer's folder has no agent, the runner's no model: neither needs the other's."""
    folder = write_folder(AGENT, REWARD, CONFIG)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("agent.py", "reward.py"):
        (folder / name).rename(elsewhere / name)
    with started(folder, "serve", "--store", "team.sqlite", "--port", "0") as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        joining = ("run", "agent.py:solve", "--forever", "--server", url, "--reward", "reward.py:score")
        with started(elsewhere, *joining) as runner:
            with started(folder, "train", "train.toml", f"--server={url}", "--agent.runners=0") as trainer:
                told, _ = trainer.communicate()
            assert trainer.returncode == 0, told
            runner.send_signal(signal.SIGTERM)
            said, _ = runner.communicate()
            assert runner.returncode == 128 + signal.SIGTERM, said
    summary = json.loads((folder / "runs" / "tiny" / "summary.json").read_text())
    assert (summary["steps"], summary["rollouts"]) == (1, 8)
