"""All doors by path."""

from collections.abc import Mapping

from leyden.gateway.anthropic.door import MESSAGES, MessagesDoor
from leyden.gateway.asked import CHAT, COMPLETIONS
from leyden.gateway.door import Door
from leyden.gateway.openai_door import OpenAIDoor
from leyden.gateway.responses.door import RESPONSES, ResponsesDoor

__all__ = ["DOORS"]

DOORS: Mapping[str, Door] = {
    CHAT: OpenAIDoor(CHAT),
    COMPLETIONS: OpenAIDoor(COMPLETIONS),
    RESPONSES: ResponsesDoor(),
    MESSAGES: MessagesDoor(),
}
