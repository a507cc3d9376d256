"""How much one client may ask: bytes, seconds, requests per second of one rollout.

Unlike a proxy's limits they know rollouts; they stand before FastAPI and cost a model call a few microseconds.
"""

import asyncio
import time
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope

from leyden.errors import OverLimit

__all__ = ["Limits", "Rates", "limited_body"]

_REMEMBERED = 10_000


@dataclass(frozen=True)
class Limits:
    """What a server takes; 0 takes away the limit of the rate."""

    body_bytes: int = 32 << 20
    body_s: float = 60.0
    """From the head of a request to the end of its body."""
    call_s: float = 3600.0
    """One model call, from its request to its answer, held for a weight swap or not."""
    requests_per_s: float = 500.0
    """Of one rollout's key; it may save up two seconds' worth."""


class Rates:
    """Counts requests of rollouts: a leaky bucket each, kept as the time at which it will be empty."""

    def __init__(self, requests_per_s: float) -> None:
        self._each_s = 1 / requests_per_s if requests_per_s else 0.0
        self._empty_at: dict[tuple[str, int | None], float] = {}

    def count(self, rollout_id: str, attempt: int | None) -> None:
        """Take one request.

        Raises:
            OverLimit: there were too many.
        """
        if not self._each_s:
            return
        who, now = (rollout_id, attempt), time.monotonic()
        empty_at = max(self._empty_at.get(who, now), now) + self._each_s
        if empty_at - now > 2.0:
            raise OverLimit(
                f"rollout {rollout_id} asks more than {1 / self._each_s:g} times a second; let it wait between them, "
                "or raise the limit: leyden serve --rate",
                429,
            )
        if len(self._empty_at) >= _REMEMBERED:
            self._empty_at = {other: at for other, at in self._empty_at.items() if at > now}
        self._empty_at[who] = empty_at


def limited_body(scope: Scope, receive: Receive, limits: Limits) -> Receive:
    """`receive`, for a body within the limits.

    Raises:
        OverLimit: at once if the request says that it is longer; `receive` raises it if it is longer or takes too long.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limits.body_bytes:
            raise _too_large(limits)
    until = asyncio.get_running_loop().time() + limits.body_s
    came, whole = 0, False

    async def limited() -> Message:
        nonlocal came, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError:
            raise OverLimit(f"the body of the request did not come within {limits.body_s:g} s", 408) from None
        came += len(message.get("body", b""))
        if came > limits.body_bytes:
            raise _too_large(limits)
        whole = not message.get("more_body", False)
        return message

    return limited


def _too_large(limits: Limits) -> OverLimit:
    return OverLimit(
        f"the body of the request is longer than {limits.body_bytes} bytes; send less at once, or raise the limit: "
        "leyden serve --body-mb",
        413,
    )
