"""The door of OpenAI's Responses API, served over the policy's chat completions.

A policy server's own Responses API gives no token ids; over chat completions they and the log-probabilities are exact.
"""

from typing import Any

from leyden.errors import BadInput, NotFound
from leyden.gateway.asked import Asked, checked
from leyden.gateway.assistant import assistant_message
from leyden.gateway.caller import Caller
from leyden.gateway.fault import Fault, fault
from leyden.gateway.json_text import load_request
from leyden.gateway.responses.reply import PREFIX, ResponsesReply
from leyden.gateway.responses.request import CONTENT, chat_body
from leyden.store.protocol import Store
from leyden.types import Call

__all__ = ["RESPONSES", "ResponsesDoor"]

RESPONSES = "/v1/responses"


class ResponsesDoor:
    """The Responses API."""

    async def ask(self, raw: bytes, caller: Caller, store: Store) -> tuple[Asked, ResponsesReply]:
        asked = load_request(raw)
        include: Any = asked.get("include") or []
        if not isinstance(include, list):
            raise BadInput(f"include must be a list, got {type(include).__name__}: {str(include)[:80]}")
        history = await self._history(asked.get("previous_response_id"), caller, store)
        own = {name: value for name, value in asked.items() if name not in CONTENT}
        request = checked(Asked(RESPONSES, chat_body(asked, history), own))
        return request, ResponsesReply(asked, caller.call_id)

    def refusal(self, error: Fault) -> Fault:
        return error

    async def _history(self, response_id: Any, caller: Caller, store: Store) -> list[dict[str, Any]]:
        """What was said up to and with an earlier response of the same rollout, without its instructions."""
        if response_id is None:
            return []
        call = await _earlier(str(response_id), caller, store)
        if call is None or call.request is None or call.answer is None:
            raise fault(
                404,
                f"Previous response with id '{response_id}' not found: previous_response_id must name a response of "
                "this rollout's own attempt that was answered, and not asked for with store=false",
                code="previous_response_not_found",
            )
        first = 1 if call.request.asked.get("instructions") else 0
        said: dict[str, Any] = call.answer.choices[0].message
        reasoning = said.get("reasoning") or said.get("reasoning_content")
        answer = assistant_message(said.get("content"), reasoning, said.get("tool_calls") or ())
        return [*call.request.messages[first:], answer]


async def _earlier(response_id: str, caller: Caller, store: Store) -> Call | None:
    """The call whose response has this id; None if it is not this rollout's, or may not be looked up."""
    try:
        call = await store.call(response_id.removeprefix(PREFIX))
    except NotFound:
        return None
    own = (call.rollout_id, call.attempt) == (caller.rollout_id, caller.attempt)
    responded = call.request is not None and call.request.path == RESPONSES
    kept = responded and call.request is not None and call.request.asked.get("store") is not False
    return call if own and kept and response_id.startswith(PREFIX) else None
