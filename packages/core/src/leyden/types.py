"""The nouns of Leyden as frozen, validated models. Their JSON forms (`model_dump(mode="json")`) are the wire format.

Unlike a tracing span, a Call keeps the exact token ids and the sampler's logprobs of every attempt, and it has two
owners: the gateway writes `attempts` and `request`, the adapter writes `structure` and `tools`.
Times are UNIX seconds, unless a name ends in `_ms`.
"""

import math
import os
import random
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from leyden.errors import BadReward

__all__ = [
    "Attempt",
    "Call",
    "Choice",
    "Claim",
    "Credit",
    "Endpoint",
    "Failure",
    "FailureKind",
    "Mode",
    "Outcome",
    "Page",
    "Replay",
    "Request",
    "Reward",
    "RewardFrom",
    "Rollout",
    "RolloutStatus",
    "Run",
    "Sampling",
    "Step",
    "Structure",
    "ToolUse",
    "new_id",
    "reward_value",
]

Mode = Literal["train", "eval", "trace"]
"""Why a rollout runs: to be learnt from, to be measured, or to be looked at (tracing needs no tokens, no reward)."""

RewardFrom = Literal["any", "grader"]
"""Who may reward a rollout: its agent too, or only graders, rules and judges (an agent then cannot score itself)."""

RolloutStatus = Literal["queued", "running", "succeeded", "failed", "incomplete"]
"""queued → running → succeeded (the agent returned) | failed (the agent raised or ran out: data, with a reward)
| incomplete (infrastructure or capture failed: counted, shown, never trained on)."""

FailureKind = Literal["agent_error", "timeout", "context_overflow", "infrastructure", "reward_error"]
"""The first three are the model's doing and are data; the others make the attempt incomplete."""

Number = Annotated[int, Field(ge=0, lt=2**31)]
"""Of an attempt or a step: what any database's integer holds."""

CallStatus = Literal["ok", "error", "cancelled"]


# Of our own, since agents seed the shared one; to ask the system for each id would let other threads in between.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def new_id() -> str:
    """A random id of 32 hexadecimal digits: unique, also after a fork; not a secret."""
    return f"{_random.getrandbits(128):032x}"


class Frozen(BaseModel):
    # NaN and infinity are no JSON: what holds one, at any depth, is refused rather than sent on as null.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def reward_value(value: Any) -> float:
    """The value as a float; `BadReward` if it is not a finite number or a bool."""
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float):
        raise BadReward(f"a reward must be a finite number or a bool, got {value!r} of type {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise BadReward(f"a reward must be finite, got {number}; check the division or the logarithm in the reward")
    return number


RewardValue = Annotated[float, BeforeValidator(reward_value)]
"""A finite float; True and False are 1.0 and 0.0. Anything else is refused."""


class Sampling(Frozen):
    """What the gateway sets on every request of a rollout, whatever the agent wrote. None leaves the agent's value."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """Upper bound of the completion's length; the agent's own smaller bound stays."""
    seed: int | None = None
    """With a seed, the n-th call of the rollout gets a seed made from (seed, n), so that sampling can be repeated."""
    bending: Literal["allow", "refuse", "strip"] = "allow"
    """What to do with parameters that bend the distribution (guided decoding, logit_bias, penalties, top_k, ...)."""


class Failure(Frozen):
    """Why an attempt did not return: its kind, one line, and the traceback if there was one."""

    kind: FailureKind
    message: str
    traceback: str | None = None


class Replay(Frozen):
    """The first calls of a rollout are answered as those of another were; the agent must be deterministic."""

    rollout_id: str = Field(min_length=1, max_length=200)
    calls: int = Field(ge=1)
    """So many; from the next one on the policy samples."""


class Rollout(Frozen):
    """One run of an agent on one task. Rollouts of one group share the task, so that their rewards can be compared."""

    id: str = Field(default_factory=new_id, min_length=1, max_length=200)
    group_id: str = Field(default_factory=new_id, min_length=1, max_length=200)
    task_id: str = ""
    task: JsonValue = None
    mode: Mode = "trace"
    run: str = ""
    """The training or evaluation run that asked for it; empty for none."""
    step: int | None = None
    """The optimiser step whose batch it belongs to."""
    sampling: Sampling = Sampling()
    reward_from: RewardFrom = "any"
    replay: Replay | None = None
    max_attempts: int = Field(default=3, ge=1)
    created_at: float = Field(default_factory=time.time)

    # Written by the store as the rollout goes on.
    status: RolloutStatus = "queued"
    attempt: int = 0
    """0 until it is first claimed, then 1, 2, ...; no number is used twice."""
    released: int = 0
    """Attempts that a stopping runner gave back; they do not count against `max_attempts`."""
    runner: str | None = None
    lease_until: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    result: JsonValue = None
    failure: Failure | None = None
    incomplete: tuple[str, ...] = ()
    """Why it may not be trained on; empty unless status is incomplete."""

    @property
    def finished(self) -> bool:
        return self.status not in ("queued", "running")


class Claim(Frozen):
    """A rollout handed to a runner, with the key that opens it (None from a store that has no server around it)."""

    rollout: Rollout
    key: str | None = None


class Choice(Frozen):
    """One sampled answer. `token_ids` and `logprobs` have the same length, or are both None (no gateway, no tokens)."""

    message: dict[str, JsonValue]
    """The assistant's message as the agent saw it; for /v1/completions {"role": "assistant", "content": text}."""
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    """Natural logarithms under the distribution that was sampled from; float32 values."""


class Attempt(Frozen):
    """One HTTP request for a call; retries of a call are several attempts. The last "ok" one is what the agent saw."""

    number: int = Field(ge=0)
    """The client's retry count: 0 for the first."""
    id: str = Field(default_factory=new_id)
    status: CallStatus
    started_at: float
    latency_ms: float
    http_status: int | None = None
    error: str | None = None
    endpoint: str | None = None
    version: int | None = None
    """The optimiser step of the weights that sampled it; None if unknown, or if they changed during the attempt."""
    prompt_token_ids: tuple[int, ...] | None = None
    choices: tuple[Choice, ...] = ()
    """Partial for a cancelled stream: the tokens that had been sampled."""
    usage: dict[str, JsonValue] | None = None


class Request(Frozen):
    """What the agent asked for. `sent` has only the fields that the gateway changed or added before forwarding."""

    path: str = "/v1/chat/completions"
    messages: tuple[dict[str, JsonValue], ...] = ()
    """Chat messages; for /v1/completions one {"role": "prompt", "content": text or token ids}."""
    tools: tuple[dict[str, JsonValue], ...] = ()
    asked: dict[str, JsonValue] = {}
    """All other fields of the request as the agent wrote them: model, temperature, stream, ..."""
    sent: dict[str, JsonValue] = {}


class Structure(Frozen):
    """Who called, as the framework's callbacks tell it. None means that this adapter does not know."""

    framework: str | None = None
    agent: tuple[str, ...] = ()
    """Agent names from the outermost to the caller: ("planner", "writer"). Empty: unstructured, and trainable."""
    node: str | None = None
    step: int | None = None
    namespace: str | None = None
    """Where in nested graphs or branches, in the framework's own words (LangGraph: the checkpoint namespace)."""
    parent: str | None = None
    """Id of the call whose tool call, handoff or sub-agent led to this one."""
    run_id: str | None = None
    """The framework's own id of this model run."""
    outcome: Literal["returned", "raised", "cancelled"] | None = None
    """What the framework made of the answer: a parse failure is "raised" although the gateway says "ok"."""
    error: str | None = None


class ToolUse(Frozen):
    """One thing that a call asked for and that was then done: a tool run, a handoff, a sub-agent run."""

    id: str = Field(default_factory=new_id)
    kind: Literal["function", "handoff", "agent"] = "function"
    """handoff: control passed to another agent, whose name is the result. agent: a sub-agent ran as a tool."""
    tool_call_id: str | None = None
    name: str = ""
    arguments: JsonValue = None
    result: JsonValue = None
    error: str | None = None
    started_at: float | None = None
    finished_at: float | None = None


class Call(Frozen):
    """One model request of a rollout and its answer. Partial records with the same id merge (`leyden.merge`).

    With a gateway, `request` and `attempts` are the gateway's. Without one the adapter writes them too, without tokens.
    """

    id: str = Field(default_factory=new_id, min_length=1, max_length=200)
    rollout_id: str | None
    """None: unattributed; recorded only when tracing."""
    attempt: Number = 1
    """The rollout's attempt in which it was made."""
    started_at: float = Field(default_factory=time.time)
    captured_by: tuple[Literal["gateway", "adapter"], ...] = ()
    """Which sides have written; sorted."""
    request: Request | None = None
    attempts: tuple[Attempt, ...] = ()
    structure: Structure | None = None
    tools: tuple[ToolUse, ...] = ()
    context: bool = False
    """True for passed-through models (a judge, an embedding) and for replayed answers: context, never trained on."""

    @property
    def answer(self) -> Attempt | None:
        """The attempt whose answer the agent saw: the last "ok" one; None if none was."""
        seen = [attempt for attempt in self.attempts if attempt.status == "ok"]
        return max(seen, key=lambda attempt: attempt.number) if seen else None

    @property
    def status(self) -> CallStatus | None:
        """ok, error or cancelled, from the last attempt; None while the call has no terminal record (dangling)."""
        if self.answer is not None:
            return "ok"
        if self.attempts:
            return max(self.attempts, key=lambda attempt: attempt.number).status
        return None


class Reward(Frozen):
    """A finite number given to a rollout, to one agent of it, or to one call of it.

    A rollout's return is the sum of its rewards that name neither agent nor call.
    """

    id: str = Field(default_factory=new_id, min_length=1, max_length=200)
    rollout_id: str
    attempt: Number = 1
    value: RewardValue
    name: str = "reward"
    source: Literal["grader", "agent", "rule", "judge", "failure"] = "grader"
    agent: str | None = None
    call_id: str | None = None
    created_at: float = Field(default_factory=time.time)


class Outcome(Frozen):
    """How an attempt of a rollout ended, as its runner tells the store. `status` "lost" asks for another attempt."""

    rollout_id: str
    attempt: Number
    runner: str
    status: Literal["succeeded", "failed", "incomplete", "lost"]
    result: JsonValue = None
    failure: Failure | None = None
    incomplete: tuple[str, ...] = ()
    rewards: tuple[Reward, ...] = ()
    """Written in the same transaction."""
    call_ids: tuple[str, ...] | None = None
    """Every call that the hook saw in this attempt; the store waits, bounded, for their records. None: unknown."""
    wait_s: float = Field(default=10.0, ge=0, le=60)


class Endpoint(Frozen):
    """A served model. Publishing the same id again replaces it, so that a version number can go up in place."""

    id: str = "policy"
    url: str
    """Base URL with /v1, for example http://127.0.0.1:8001/v1."""
    model: str
    version: int = 0
    """The optimiser step of its weights."""
    context_length: int | None = None
    state: Literal["ready", "held", "gone"] = "ready"
    """held: weights are being swapped; the gateway keeps requests waiting."""
    key: str | None = None
    published_at: float = Field(default_factory=time.time)


class Credit(Frozen):
    """The advantage that a call was trained with, and against what it was compared."""

    call_id: str
    rollout_id: str
    run: str
    step: Number
    method: str
    advantage: float
    reason: str = ""
    """The comparison in words: "0.5 above the mean 0.5 of the 8 rollouts of this task"."""


class Run(Frozen):
    """One training run: how it was set up. Its rollouts carry its name."""

    name: str = Field(min_length=1, max_length=200)
    config: dict[str, JsonValue] = {}
    """The whole configuration, as it was trained with; never keys."""
    tokenizer: str | None = None
    """A tokenizer.json on the server's machine, with which tokens are shown as text; None shows their ids."""
    started_at: float = Field(default_factory=time.time)


class Step(Frozen):
    """What a run measured at one optimiser step; 0 is before the first."""

    run: str
    step: int = Field(ge=0)
    metrics: dict[str, float]
    noted_at: float = Field(default_factory=time.time)


class Page(Frozen):
    """Some rollouts, oldest first, and the cursor after the last one."""

    rollouts: tuple[Rollout, ...]
    cursor: int
    more: bool
