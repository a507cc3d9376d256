"""A patch of the `openai` client (1.x to 3.x): each logical call gets an id, says who calls, and goes to the gateway.

Unlike a patch of the transport it sits above the client's retries, so that a retried call keeps its id. A fault of the
hook or an adapter never reaches the agent, nor does it send the call past the gateway; a call whose rollout is not
certain is refused, as `Unattributed`.
"""

import functools
import importlib.util
import logging
from typing import Any, cast
from urllib.parse import quote

from leyden.adapters import identified
from leyden.errors import Unattributed
from leyden.exception_text import exception_text
from leyden.recorder import recorder
from leyden.scope import Scope, current_scope
from leyden.types import Call, Request, Structure, new_id

__all__ = ["install_hook", "uninstall_hook"]

_log = logging.getLogger("leyden")
_PATHS = ("/chat/completions", "/completions", "/responses")
"""Of calls that a policy can answer."""
_EMBEDDINGS = "/embeddings"
_KEPT = ("x-stainless-", "accept", "content-type")
"""What the client tells itself and the server about the form of the exchange."""
_HEADER_SAFE = " !\"#$&'()*+,/:;<=>?@[\\]^`{|}"
"""What a header may hold as it is: all of ASCII's visible characters but the escape's own %."""
_originals: dict[type, Any] = {}
_require_scope = False
_omitted: Any = None
"""The client's own sign for a header that is not to be sent."""


def install_hook(*, require_scope: bool) -> None:
    """Patch the client if `openai` is installed; twice is once.

    Args:
        require_scope: refuse model calls outside any rollout (where rollouts share a process).
    """
    global _require_scope, _omitted
    _require_scope = require_scope
    if _originals or importlib.util.find_spec("openai") is None:
        return
    from openai import Omit
    from openai._base_client import AsyncAPIClient, SyncAPIClient

    _omitted = Omit()
    for client in (SyncAPIClient, AsyncAPIClient):
        _originals[client] = client.request
        setattr(client, "request", _patched(client.request))  # noqa: B010  # pyright would want overloads repeated


def uninstall_hook() -> None:
    """Undo `install_hook`."""
    while _originals:
        client, original = _originals.popitem()
        setattr(client, "request", original)  # noqa: B010


def _patched(original: Any) -> Any:
    @functools.wraps(original)
    def request(self: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        return original(self, cast_to, _routed(self, options), *args, **kwargs)

    return request


def _routed(client: Any, options: Any) -> Any:
    """The request's options as they are to be sent."""
    url = str(options.url)
    scope = current_scope()
    if not url.endswith(_PATHS):
        if url.endswith(_EMBEDDINGS) and scope is not None and not scope.closed:
            _note_context(new_id(), _EMBEDDINGS, _mapping(options.json_data), None, scope)
        return options
    if scope is None:
        if _require_scope:
            raise Unattributed(
                "a model call was made outside any rollout, in a process where several run: start threads inside the "
                'agent function, or run with agent.isolation = "process"'
            )
        return options
    if scope.closed:
        raise Unattributed(
            f"a model call was made for rollout {scope.rollout_id} after it had ended; wait for your threads and tasks "
            "before the agent function returns"
        )
    return _marked(client, options, next(path for path in _PATHS if url.endswith(path)), scope)


def _marked(client: Any, options: Any, path: str, scope: Scope) -> Any:
    call_id = new_id()
    structure = identified(call_id, scope)
    if not scope.gateway:
        return options
    data = _mapping(options.json_data)
    if not scope.routing.goes_to_gateway(str(data.get("model", ""))):
        _note_context(call_id, path, data, structure, scope)
        return options
    scope.call_ids.append(call_id)
    # Not even a fault of ours lets the call go where the agent sent it: a provider would be paid for it.
    headers = {"Authorization": f"Bearer {scope.key}", "X-Leyden-Call": call_id}
    try:
        headers = _headers(client, options, headers, structure)
    except Exception as error:  # the capture boundary
        _lost(scope, error)
    return options.model_copy(update={"url": f"{scope.server_url}/v1{path}", "headers": headers})


def _lost(scope: Scope, error: Exception) -> None:
    _log.error("the openai hook failed", exc_info=error)
    scope.losses.append(f"the openai hook failed: {exception_text(error)}")


def _headers(client: Any, options: Any, ours: dict[str, str], structure: Structure | None) -> dict[str, Any]:
    """Ours in the place of the agent's: none of its secrets may reach the gateway, in whatever header they travel."""
    own = _mapping(options.headers)
    headers: dict[str, Any] = {"OpenAI-Organization": _omitted, "OpenAI-Project": _omitted}
    # `_custom_headers` are those that the agent gave to the client, under any name.
    for name in getattr(client, "_custom_headers", ()):
        if not name.lower().startswith(_KEPT):
            headers[name] = _omitted
    for name, value in own.items():
        headers[name] = value if name.lower().startswith(_KEPT) else _omitted
    headers.update(ours)
    if "azure" in type(client).__name__.lower():
        headers["api-key"] = ours["Authorization"].removeprefix("Bearer ")  # else the client would put its own there
    if structure is not None:
        headers["X-Leyden-Structure"] = _header_text(structure.model_dump_json(exclude_defaults=True))
    return headers


def _header_text(text: str) -> str:
    """Percent-encoded, where a header could not hold it as it is."""
    plain = text.isascii() and text.isprintable() and "%" not in text
    return text if plain else quote(text, _HEADER_SAFE)


def _note_context(call_id: str, path: str, data: dict[str, Any], structure: Structure | None, scope: Scope) -> None:
    """A passed-through call (a judge, an embedding) is on record as context: its question, not its answer, which never
    comes by here."""
    if not scope.gateway:
        return
    try:
        asked = dict(data)
        said = asked.pop("messages", None)
        if said is None:
            said = [{"role": "prompt", "content": asked.pop(name)} for name in ("prompt", "input") if name in asked]
        call = Call(
            id=call_id,
            rollout_id=scope.rollout_id,
            attempt=scope.attempt,
            captured_by=("adapter",),
            request=Request(path=f"/v1{path}", messages=tuple(said), tools=tuple(asked.pop("tools", ())), asked=asked),
            structure=structure,
            context=True,
        )
    except Exception as error:  # the capture boundary
        _lost(scope, error)
    else:
        recorder.record(scope, call)


def _mapping(value: Any) -> dict[str, Any]:
    """`value` if it is a dict: the client's "not given" is an object of its own."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
