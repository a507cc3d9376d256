"""Records for tests of stores: a call as each side records it, a reward, an outcome, rollouts that are claimed."""

from typing import Any

from pydantic import JsonValue

from leyden.store.protocol import Store
from leyden.types import Attempt, Call, Choice, Outcome, Request, Reward, Rollout, Structure, ToolUse

__all__ = ["claimed", "ended", "rewarded", "sampled", "told"]


def sampled(rollout_id: str | None, call_id: str, **changes: Any) -> Call:
    """A call as the gateway records it, trainable; `changes` are to its one HTTP attempt."""
    message: dict[str, JsonValue] = {"role": "assistant", "content": "forty-two ✓"}
    choice = Choice(message=message, finish_reason="stop", token_ids=(17, 70_000), logprobs=(-0.5, -0.1))
    made: dict[str, Any] = {"number": 0, "id": f"http of {call_id}", "status": "ok", "usage": {"completion_tokens": 2}}
    times: dict[str, Any] = {"started_at": 100.25, "latency_ms": 12.5, "http_status": 200}
    answer: dict[str, Any] = {"version": 3, "prompt_token_ids": (1, 2, 3), "choices": (choice,)}
    request = Request(
        messages=({"role": "user", "content": "6 × 7?"},),
        tools=({"type": "function", "function": {"name": "times"}},),
        asked={"model": "policy", "temperature": 0},
        sent={"temperature": 1.0},
    )
    attempt = Attempt.model_validate({**made, **times, **answer, **changes})
    side: dict[str, Any] = {"started_at": 100.0, "captured_by": ("gateway",)}
    return Call(id=call_id, rollout_id=rollout_id, request=request, attempts=(attempt,), **side)


def told(rollout_id: str, call_id: str, **structure: Any) -> Call:
    """What an adapter records of the same call: who made it."""
    return Call(
        id=call_id,
        rollout_id=rollout_id,
        started_at=99.5,
        captured_by=("adapter",),
        structure=Structure.model_validate({"framework": "tests", "agent": ("planner", "writer"), **structure}),
        tools=(ToolUse(id=f"tool of {call_id}", name="times", arguments={"a": 6}, result=42, started_at=101.0),),
    )


def ended(rollout_id: str, *, attempt: int = 1, runner: str = "ann", **changes: Any) -> Outcome:
    """The outcome of a rollout that went well; `changes` to it."""
    fields = {"rollout_id": rollout_id, "attempt": attempt, "runner": runner, "status": "succeeded", "wait_s": 0.0}
    return Outcome.model_validate({**fields, **changes})


def rewarded(rollout_id: str, value: float = 1.0, **changes: Any) -> Reward:
    """A reward of the whole rollout; `changes` to it."""
    return Reward.model_validate({"rollout_id": rollout_id, "value": value, **changes})


async def claimed(store: Store, *rollout_ids: str, runner: str = "ann", **fields: Any) -> None:
    """Queue rollouts for training, and claim them."""
    rollouts = [Rollout.model_validate({"id": name, "mode": "train", **fields}) for name in rollout_ids]
    await store.queue(rollouts)
    claims = await store.claim(runner, limit=len(rollouts), lease_s=600)
    assert [claim.rollout.id for claim in claims] == list(rollout_ids)
