"""The door of Anthropic's Messages API, served over the policy's chat completions."""

from leyden.gateway.anthropic.reply import MessagesReply, error_body
from leyden.gateway.anthropic.request import CONTENT, chat_body
from leyden.gateway.asked import Asked, checked
from leyden.gateway.caller import Caller
from leyden.gateway.fault import Fault
from leyden.gateway.json_text import load_request
from leyden.store.protocol import Store

__all__ = ["MESSAGES", "MessagesDoor"]

MESSAGES = "/v1/messages"


class MessagesDoor:
    """The Messages API. Its clients are routed by environment variables, so a retry is a call of its own."""

    async def ask(self, raw: bytes, caller: Caller, store: Store) -> tuple[Asked, MessagesReply]:
        asked = load_request(raw)
        own = {name: value for name, value in asked.items() if name not in CONTENT}
        return checked(Asked(MESSAGES, chat_body(asked), own)), MessagesReply(asked, caller.call_id)

    def refusal(self, error: Fault) -> Fault:
        headers = {name: value for name, value in error.headers.items() if name != "content-type"}
        return Fault(error.status, error.error, body=error_body(error), headers=headers)
