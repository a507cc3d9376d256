"""What parent and worker say to each other: one JSON object a line, over a socket that only they share."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from leyden.types import Failure

__all__ = ["LINE_LIMIT", "Done", "Job", "Setup"]

LINE_LIMIT = 2**26  # bytes of one line


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Setup(Message):
    """First, to the worker. It holds no operator's key, and the worker never gets one."""

    agent: str
    server_url: str
    models: tuple[str, ...]
    passthrough: tuple[str, ...]
    shared: bool
    """Several rollouts at once in this process."""
    concurrency: int


class Job(Message):
    """To the worker: run the agent once, or (`cancel`) end that run."""

    rollout_id: str
    attempt: int
    task: JsonValue = None
    key: str | None = None
    gateway: bool = True
    timeout_s: float = 0.0
    cancel: bool = False


class Done(Message):
    """From the worker: how a run ended. Without a rollout id: the worker is ready, or `failure` says why it is not."""

    rollout_id: str | None = None
    attempt: int = 0
    status: Literal["returned", "failed", "lost", "incomplete"] = "returned"
    result: JsonValue = None
    failure: Failure | None = None
    call_ids: tuple[str, ...] = ()
    losses: tuple[str, ...] = ()
    abandoned: int = 0
    """Runs whose time is over and that still go on in the worker, because nothing can stop them."""
