"""A chat answer said as a response: whole, or as the Responses API's events with their sequence numbers.

Both come from the same items (`Output`), so a stream's events fold to what the whole answer says.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from leyden.gateway.fault import Fault
from leyden.gateway.json_text import dump
from leyden.gateway.responses.output import Event, Output
from leyden.gateway.responses.request import LOGPROBS
from leyden.gateway.sse import event

__all__ = ["PREFIX", "ResponsesReply"]

PREFIX = "resp_"
"""A response's id is this and the call's id: by it the next request names the call."""

_CUTS = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Finish reasons of an answer that was cut, and what the API calls them."""

_ECHOED: dict[str, Any] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "model": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": None,
    "user": None,
}
"""Fields of the request that the response repeats, and what stands there if they were not asked."""


class ResponsesReply:
    """The answer to one Responses request."""

    verbatim = False

    def __init__(self, asked: Mapping[str, Any], call_id: str) -> None:
        self._output = Output(call_id, logprobs=LOGPROBS in (asked.get("include") or ()))
        self._sequence_number = 0
        self._finish_reason: str | None = None
        self._response: dict[str, Any] = {
            "id": f"{PREFIX}{call_id}",
            "object": "response",
            "created_at": int(time.time()),
            "status": "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": None,
            **{name: asked[name] if asked.get(name) is not None else default for name, default in _ECHOED.items()},
            "output": [],
            "service_tier": "default",
            "truncation": "disabled",
            "usage": None,
        }

    def whole(self, body: dict[str, Any]) -> bytes:
        self._take(body)
        self._end()
        return dump(self._response)

    def opening(self) -> bytes:
        return self._said([self._lifecycle("response.created"), self._lifecycle("response.in_progress")])

    def chunk(self, body: dict[str, Any]) -> bytes:
        return self._said(self._take(body))

    def closing(self) -> bytes:
        events = self._end()
        return self._said([*events, self._lifecycle(f"response.{self._response['status']}")])

    def failure(self, error: Fault) -> bytes:
        told = {"code": "server_error", "message": str(error)}
        self._response |= {"status": "failed", "error": told, "output": self._output.items}
        return self._said([self._lifecycle("response.failed")])

    def _take(self, body: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        for choice in body.get("choices") or ():
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            events += self._output.take(choice)
        if body.get("usage"):
            self._response["usage"] = _usage(body["usage"])
        return events

    def _end(self) -> list[Event]:
        cut = _CUTS.get(self._finish_reason or "")
        events = self._output.close(cut=cut is not None)
        self._response |= {"status": "incomplete" if cut else "completed", "output": self._output.items}
        self._response["incomplete_details"] = {"reason": cut} if cut else None
        return events

    def _lifecycle(self, kind: str) -> Event:
        return {"type": kind, "response": dict(self._response)}

    def _said(self, events: Sequence[Event]) -> bytes:
        said: list[bytes] = []
        for told in events:
            said.append(event(dump({**told, "sequence_number": self._sequence_number}), told["type"]))
            self._sequence_number += 1
        return b"".join(said)


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    read: dict[str, Any] = usage.get("prompt_tokens_details") or {}
    written: dict[str, Any] = usage.get("completion_tokens_details") or {}
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": read.get("cached_tokens") or 0, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": written.get("reasoning_tokens") or 0},
        "total_tokens": prompt + completion,
    }
