"""Chat messages to prompt token ids, by the tokenizer's own chat template.

The OpenAI form and the templates' form differ: content parts become text, missing content becomes "", and the arguments
of tool calls become objects.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from leyden.errors import BadInput

__all__ = ["Renderer", "text_of"]

REMEMBERED = 512


class Renderer:
    """Renders conversations; the latest are remembered, because a group of rollouts asks the same."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._rendered: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def prompt_ids(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> tuple[int, ...]:
        """The prompt up to where the assistant is to speak; `options` are the template's own.

        Raises:
            BadInput: the tokenizer has no template, the template refuses the messages, or they hold more than text.
        """
        key = json.dumps([messages, tools, options], sort_keys=True)
        if key not in self._rendered:
            self._rendered[key] = self.tokens(self.text(messages, tools, options))
            if len(self._rendered) > REMEMBERED:
                self._rendered.popitem(last=False)
        self._rendered.move_to_end(key)
        return self._rendered[key]

    def text(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
    ) -> str:
        """The prompt as text; arguments and errors as `prompt_ids`."""
        if self.tokenizer.chat_template is None:
            raise BadInput("the model's tokenizer has no chat template; use /v1/completions, or an instruct model")
        conversation = [_for_template(message) for message in messages]
        offered: Any = list(tools) or None
        try:
            text = self.tokenizer.apply_chat_template(
                conversation, tools=offered, add_generation_prompt=True, tokenize=False, **options
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise BadInput(f"the model's chat template refused the messages: {error}") from error
        assert isinstance(text, str)
        return text

    def tokens(self, text: str) -> tuple[int, ...]:
        """The tokens of rendered text, special ones among them."""
        return tuple(self.tokenizer(text, add_special_tokens=False).input_ids)


def _for_template(message: Mapping[str, Any]) -> dict[str, Any]:
    rendered = {**message, "content": text_of(message.get("content"))}
    if message.get("tool_calls"):
        rendered["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    return rendered


def text_of(content: Any) -> str:
    """A message's content as text; `BadInput` if it holds anything else."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadInput(f"message content must be a text or a list of parts, got {type(content).__name__}")
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise BadInput(f"message content may hold text parts only, got {str(part)[:80]}")
    return "".join(part["text"] for part in content)


def _tool_call(call: Any) -> dict[str, Any]:
    try:
        function = call["function"]
        arguments = function["arguments"]
        decoded = json.loads(arguments) if isinstance(arguments, str) else arguments
        return {**call, "function": {**function, "arguments": decoded}}
    except (TypeError, KeyError) as error:
        raise BadInput(f"a tool call needs function.name and function.arguments, got {str(call)[:120]}") from error
    except json.JSONDecodeError as error:
        raise BadInput(f"the arguments of tool call {call.get('id')!r} are not JSON: {error}") from error
