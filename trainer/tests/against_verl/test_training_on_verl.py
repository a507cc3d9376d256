"""`leyden train` on the real stack on a CPU: LangGraph, gateway, verl's own vLLM servers, store, credit, FSDP2."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from leyden_trainer.testing import lookup_tasks, warm_tiny_model
from leyden_trainer.verl.session import LOOPBACK

AGENT_PYTHON = Path(__file__).parents[3] / ".venv" / "bin" / "python"
"""The main environment: it has the agent's framework, and no verl."""

AGENT = """
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph

llm = ChatOpenAI(model="gpt-4o-mini", max_tokens=12, temperature=0)


class State(MessagesState):
    number: int


def plan(state):
    return {"messages": [llm.invoke(state["messages"])]}


def tool(state):
    return {"messages": [("user", f"result {state['number']}")]}


def answer(state):
    return {"messages": [llm.invoke(state["messages"])]}


graph = StateGraph(State).add_sequence([plan, tool, answer]).add_edge(START, "plan").add_edge("answer", END).compile()


async def solve(task):
    start = [("system", "use tools"), ("user", task["question"])]
    state = await graph.ainvoke({"messages": start, "number": task["number"]})
    return [message.content for message in state["messages"] if message.type == "ai"]
"""
REWARD = """
def score(task, result):
    call, answer = result
    return call == f"call {task['tool']} {task['city']}" and answer == f"answer {task['number']}"
"""
CONFIG = f"""
name = "verl"
[model]
path = "model"
context_length = 256
[agent]
function = "agent.py:solve"
python = "{AGENT_PYTHON}"
concurrency = 64
[reward]
function = "reward.py:score"
[tasks]
train = "train.jsonl"
heldout = "heldout.jsonl"
[sampling]
max_tokens = 12
[optimizer]
learning_rate = 1e-3
warmup_steps = 0
[critic]
kind = "model"
learning_rate = 1e-3
[trainer]
backend = "verl"
steps = 15
tasks_per_step = 8
rollouts_per_task = 8
evaluate_every = 15
[trainer.verl.trainer]
save_freq = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").symlink_to(warm_tiny_model(Path.home() / ".cache" / "leyden").resolve())
    for name, text in (("agent.py", AGENT), ("reward.py", REWARD), ("train.toml", CONFIG)):
        (tmp_path / name).write_text(text)
    for name, heldout, count in (("train", False, 200), ("heldout", True, 24)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines(heldout=heldout, count=count)))
    return tmp_path


def lines(*, heldout: bool, count: int) -> list[str]:
    found: dict[str, None] = {}
    for task in lookup_tasks(1, heldout=heldout):
        found[json.dumps(dataclasses.asdict(task))] = None
        if len(found) == count:
            break
    return list(found)


def training(folder: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "leyden", "train", "train.toml", *flags],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_after(step: int, process: subprocess.Popen[str]) -> None:
    """With all that it started, as soon as it says that it has made the step."""
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if re.search(rf"step +{step} ", line):
            os.killpg(process.pid, signal.SIGKILL)
            break
    else:
        pytest.fail("".join(said)[-5000:])
    process.communicate()


def finished(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate()
    assert process.returncode == 0, said[-5000:]
    return said


def records(folder: Path, name: str = "verl") -> Iterator[dict[str, float]]:
    return map(json.loads, (folder / "runs" / name / "metrics.jsonl").read_text().splitlines())


def test_a_run_on_verl_learns_and_goes_on_after_it_was_killed(folder: Path) -> None:
    """Killed in its sixth step at the earliest; the whole of it has 15 steps, each one once."""
    kill_after(5, training(folder))

    after = finished(training(folder, "--resume"))
    steps = [record for record in records(folder) if "reward" in record]
    assert [record["step"] for record in steps] == list(range(1, 16))
    resumed = {int(number) for number in re.findall(r"step +(\d+)  reward", after)}
    silent = [r["step"] for r in steps if r["step"] in resumed and r["leyden/silent_groups"] >= 4]  # of 8
    assert after.count("warning: no signal in") == len(silent)
    rewards = [record["reward"] for record in steps]  # as sampled, at temperature 1
    assert sum(rewards[-6:]) / 6 > sum(rewards[:2]) / 2 + 0.2
    assert max(record["mismatch"] for record in steps) < 1e-3
    summary = json.loads((folder / "runs" / "verl" / "summary.json").read_text())
    assert summary["steps"] == 15
    assert summary["eval_before"] < 0.5
    assert summary["eval_after"] > 0.8
    assert versions_are_those_of_the_steps(folder)
    assert "--checkpoint last" in after
    assert evaluated(folder, "verl", "last") > 0.8


def evaluated(folder: Path, name: str, checkpoint: str) -> float:
    """The mean reward of a run's checkpoint on the held-out tasks, by `leyden eval`."""
    command = [sys.executable, "-m", "leyden", "eval", "train.toml", f"--name={name}", "--checkpoint", checkpoint]
    done = subprocess.run([*command, "--json"], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["checkpoints"][0]["mean_reward"]


@pytest.fixture
def another_ray() -> Iterator[None]:
    """A cluster that somebody else started on this machine, as `ray start --head` does."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield
    cluster.shutdown()


def test_a_rollout_stays_on_one_of_two_vllm_servers_and_both_get_the_new_weights(
    folder: Path, another_ray: None
) -> None:
    """Two data-parallel workers, each with a server of its own; the trainer agrees with both on each token.

    It runs on a Ray of its own, whatever else there is.
    """
    # 12 rows: 6 for each worker, which are no whole number of verl's micro-batches of 8, and are padded.
    small = ("--trainer.steps=2", "--trainer.tasks_per_step=3", "--trainer.rollouts_per_task=4", "--name=two")
    finished(
        training(folder, *small, "--trainer.verl.trainer.n_gpus_per_node=2", "--trainer.verl.trainer.save_freq=-1")
    )
    steps = [record for record in records(folder, "two") if "reward" in record]
    assert [record["step"] for record in steps] == [1, 2]
    assert all(record["mismatch"] < 1e-3 for record in steps)
    assert versions_are_those_of_the_steps(folder, "two", servers=2)


def versions_are_those_of_the_steps(folder: Path, name: str = "verl", *, servers: int | None = None) -> bool:
    """Rollouts of step k come from the weights after k-1 steps, says each call in the store.

    With `servers`, in a run that nobody killed: each rollout is from one server, and each step from all.
    """
    script = (
        "import asyncio, sys\n"
        "from leyden.store import SqlStore\n"
        "async def main():\n"
        "    store = SqlStore.open(sys.argv[1])\n"
        "    page = await store.rollouts(after=0, limit=1000)\n"
        "    steps = {r.id: r.step for r in page.rollouts if r.mode == 'train'}\n"
        "    calls = await store.calls(list(steps))\n"
        "    assert len(calls) == 2 * len(steps) > 0\n"
        "    assert all(call.answer.version == steps[call.rollout_id] - 1 for call in calls)\n"
        "    servers = int(sys.argv[2])\n"
        "    used = {(steps[c.rollout_id], c.rollout_id, c.answer.endpoint) for c in calls}\n"
        "    assert not servers or len(used) == len(steps)\n"
        "    places = {(step, endpoint) for step, _, endpoint in used}\n"
        "    assert not servers or len(places) == servers * len(set(steps.values()))\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    store = folder / "runs" / name / "store.sqlite"
    return subprocess.run([sys.executable, "-c", script, str(store), str(servers or 0)], check=False).returncode == 0


@pytest.fixture
def cluster() -> Iterator[str]:
    """A Ray that was there before, of one node with a logical GPU."""
    node = {"num_cpus": 16, "num_gpus": 1, "node_ip_address": LOOPBACK, "object_store_memory": 500_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster.address
    cluster.shutdown()


def test_ppo_on_verl_trains_a_critic_in_a_ray_that_it_joins(folder: Path, cluster: str) -> None:
    """The critic comes to explain some of what it had not at first; the runner is an actor of that Ray's; the rate is
    warmed up as the local backend does."""
    flags = ["--credit.method=ppo", "--trainer.steps=5", "--name=ppo", "--trainer.verl.trainer.save_freq=-1"]
    flags += [f"--trainer.ray_address={cluster}", "--agent.runners=ray", "--optimizer.warmup_steps=4"]
    finished(training(folder, *flags))
    assert (folder / "runs" / "ppo" / "runner-0.log").is_file()
    steps = [record for record in records(folder, "ppo") if "reward" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5]
    losses = [record["critic/vf_loss"] for record in steps]
    assert min(losses[2:]) < losses[0]
    of_the_next_update = [record["actor/lr"] for record in steps]
    assert of_the_next_update == pytest.approx([5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])
    assert all(record["mismatch"] < 1e-3 for record in steps)


def test_rollouts_go_on_while_verl_updates_and_the_run_goes_on_after_it_was_killed(folder: Path) -> None:
    """They are weighed and at most one update old; those of the newest weights still agree with the trainer.

    With adapters, which vLLM gets merged, and KL to the model without them.
    """
    flags = ["--trainer.mode=colocate_async", "--loss.old_logprobs=trainer", "--loss.importance_cap=2"]
    flags += ["--model.lora_rank=8", "--loss.kl=0.01"]
    # Two steps' rollouts at once are no more than the agents that run at once: those ahead begin with the step before.
    small = ("--trainer.steps=4", "--trainer.tasks_per_step=4", "--trainer.rollouts_per_task=4", "--name=async")
    # The checkpoint is of step 2, so that rollouts of steps 3 and 4 are there which other weights will follow.
    small += ("--trainer.verl.trainer.save_freq=2",)
    kill_after(3, training(folder, *flags, *small))
    finished(training(folder, *flags, *small, "--resume"))
    steps = [record for record in records(folder, "async") if "reward" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4]
    assert all(record["leyden/incomplete"] == 0 for record in steps)  # what was under way as weights changed, too
    assert steps[0]["staleness"] == 0
    assert 0 < steps[1]["staleness"] <= 1
    assert all(abs(record["staleness"]) <= 1 for record in steps)
    assert all(record["mismatch"] < 1e-3 for record in steps)
    assert steps[1]["leyden/importance_mean"] != pytest.approx(1, abs=1e-4)
    last = folder / "runs" / "async" / "checkpoints" / "last"
    assert (last / "model.safetensors").is_file()
    assert not (last / "lora_adapter").exists()  # merged


def test_an_option_that_verl_does_not_know_is_refused(folder: Path) -> None:
    """Before anything is started."""
    process = training(folder, "--trainer.verl.trainer.no_such_option=1")
    said, _ = process.communicate()
    assert process.returncode != 0
    assert "no_such_option" in said


def test_adapters_that_vllm_would_not_apply_are_refused(folder: Path) -> None:
    """Kept apart from the weights they reach no agent's request, and nothing would be learnt."""
    process = training(folder, "--model.lora_rank=8", "--trainer.verl.actor_rollout_ref.model.lora.merge=false")
    said, _ = process.communicate()
    assert process.returncode != 0
    assert "lora.merge is false" in said


def test_what_this_backend_would_ignore_is_refused(folder: Path) -> None:
    """A setting without an effect is worse than none; each is named."""
    flags = ("--trainer.stop_at=0.9", "--model.layers=1", "--critic.backbone=0.5", "--critic.kind=head")
    flags += ("--trainer.verl.trainer.val_before_train=false",)
    said, _ = (process := training(folder, *flags, "--credit.method=hae")).communicate()
    assert process.returncode != 0
    for name in ("trainer.stop_at", "model.layers", "critic.backbone", "critic.kind", "val_before_train"):
        assert name in said
