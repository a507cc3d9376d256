"""What the agent asked for, and what is sent to the policy in its place.

Unlike a validating proxy it checks only what the gateway itself reads; the policy server judges the rest.
"""

from dataclasses import dataclass
from typing import Any, cast

from leyden.errors import BadInput
from leyden.gateway.json_text import is_objects, load_request
from leyden.gateway.parts import refuse_media
from leyden.gateway.sampling import apply
from leyden.types import Request, Sampling

__all__ = ["CHAT", "COMPLETIONS", "Asked", "checked", "parse"]

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


@dataclass(frozen=True)
class Asked:
    """One request: at which path the agent asked, and the body as the policy's API has it."""

    path: str
    body: dict[str, Any]
    own: dict[str, Any] | None = None
    """The agent's fields in the words of its own API, without messages and tools; None: `body` is what it wrote."""

    @property
    def policy_path(self) -> str:
        """Where the policy is asked: every other API is served over chat completions."""
        return CHAT if self.chat else COMPLETIONS

    @property
    def chat(self) -> bool:
        return self.path != COMPLETIONS

    @property
    def model(self) -> str | None:
        return self.body.get("model")

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def num_choices(self) -> int:
        return self.body.get("n") or 1

    @property
    def wants_token_ids(self) -> bool:
        return bool(self.body.get("return_token_ids"))

    @property
    def wants_logprobs(self) -> bool:
        """Chat has a switch; completions a number, where 0 means the sampled tokens alone."""
        logprobs = self.body.get("logprobs")
        return bool(logprobs) if self.chat else logprobs is not None and logprobs is not False

    @property
    def wants_usage(self) -> bool:
        options: dict[str, Any] = self.body.get("stream_options") or {}
        return bool(options.get("include_usage"))

    def for_policy(self, sampling: Sampling, model: str, call_number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The body to send, and the fields in it that differ from the agent's (None: removed)."""
        body, changes = apply(sampling, self.body, call_number)
        needed: dict[str, Any] = {"model": model, "return_token_ids": True}
        if not self.wants_logprobs:
            needed["logprobs"] = True if self.chat else 0
        if self.stream:
            needed["stream_options"] = {**(self.body.get("stream_options") or {}), "include_usage": True}
        added = {name: value for name, value in needed.items() if self.body.get(name) != value}
        return {**body, **added}, {**changes, **added}

    def record(self, sent: dict[str, Any]) -> Request:
        """The request as the store keeps it."""
        messages = self.body["messages"] if self.chat else [{"role": "prompt", "content": self.body["prompt"]}]
        apart = ("messages", "tools") if self.chat else ("prompt",)
        asked = {name: value for name, value in self.body.items() if name not in apart}
        if self.own is not None:
            translated = {name: value for name, value in asked.items() if self.own.get(name) != value}
            asked, sent = self.own, {**translated, **sent}
        return Request(
            path=self.path,
            messages=tuple(messages),
            tools=tuple(self.body.get("tools") or ()) if self.chat else (),
            asked=asked,
            sent=sent,
        )


def parse(path: str, raw: bytes) -> Asked:
    """The request in `raw`; `BadInput` if the gateway cannot read it."""
    return checked(Asked(path, load_request(raw)))


def checked(asked: Asked) -> Asked:
    """The request itself; `BadInput` if the gateway cannot read it, or if it holds more than text."""
    if asked.chat:
        _need_objects(asked.body, "messages")
        _need_text(asked.body)
        if asked.body.get("tools") is not None:
            _need_objects(asked.body, "tools")
    elif not _one_prompt(asked.body.get("prompt")):
        raise BadInput(
            "prompt must be one text or one list of token ids; send a list of prompts one by one, each a call"
        )
    _need(asked.body, "model", str)
    _need(asked.body, "n", int)
    _need(asked.body, "stream_options", dict)
    return asked


def _need_objects(body: dict[str, Any], name: str) -> None:
    value = body.get(name)
    if not is_objects(value):
        raise BadInput(f"{name} must be a list of objects, got {type(value).__name__}: {str(value)[:80]}")


def _need_text(body: dict[str, Any]) -> None:
    for number, message in enumerate(body["messages"]):
        content: Any = message.get("content")
        if is_objects(content):
            for part in content:
                refuse_media(part, f"messages[{number}]")
    if body.get("modalities") not in (None, ["text"]):
        raise BadInput(f"the policy is a text model, so modalities must be ['text'], got {body['modalities']}")


def _need(body: dict[str, Any], name: str, kind: type) -> None:
    value = body.get(name)
    if value is not None and not isinstance(value, kind):
        raise BadInput(f"{name} must be of type {kind.__name__}, got {type(value).__name__}: {str(value)[:80]}")


def _one_prompt(prompt: Any) -> bool:
    if isinstance(prompt, list):
        return all(type(token) is int for token in cast("list[Any]", prompt))
    return isinstance(prompt, str)
