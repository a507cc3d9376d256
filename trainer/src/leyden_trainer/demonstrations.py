"""Conversations to learn from before RL: JSON lines in the form of OpenAI's chat fine-tuning files.

`{"messages": [...], "tools": [...]}`; an assistant message with `"weight": 0` (an example in the agent's own prompt) is
context, every other one is learnt.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from leyden.errors import BadInput

__all__ = ["Demonstration", "read_demonstrations"]


@dataclass(frozen=True)
class Demonstration:
    """One conversation. `where` is its file and line, for errors."""

    where: str
    messages: tuple[Mapping[str, Any], ...]
    """As an agent would send them."""
    tools: tuple[Mapping[str, Any], ...]
    learnt: tuple[int, ...]
    """The places of the assistant's turns to learn."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    weight: Literal[0, 1] | None = None

    @model_validator(mode="after")
    def _only_answers_have_weight(self) -> "_Message":
        if self.weight is not None and self.role != "assistant":
            raise ValueError(f"only an assistant's message has a weight, this is the {self.role}'s")
        if self.role == "assistant" and not self.content and not self.tool_calls:
            raise ValueError("an assistant's message needs content or tool_calls")
        return self


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: list[_Message] = Field(min_length=2)
    tools: list[dict[str, Any]] = []


def read_demonstrations(path: Path) -> list[Demonstration]:
    """The conversations of a file; blank lines are skipped.

    Raises:
        BadInput: no such file, none in it, a line of another form, or one without a turn to learn; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise BadInput(f"cannot read the demonstrations {path}: {error.strerror}") from error
    found = [_read(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise BadInput(f'{path} has no demonstration; expected one {{"messages": [...]}} a line')
    return found


def _read(line: str, where: str) -> Demonstration:
    try:
        content = _Line.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise BadInput(f'{where}: not JSON ({error}); expected {{"messages": [...]}}') from error
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
        raise BadInput(f"{where}: {'; '.join(problems)}") from error
    learnt = tuple(i for i, m in enumerate(content.messages) if m.role == "assistant" and m.weight != 0)
    if not learnt:
        raise BadInput(f"{where}: no assistant's message to learn; give one without weight 0")
    if learnt[0] == 0:
        raise BadInput(f"{where}: the first message is the assistant's; expected what it answers before it")
    messages = tuple(m.model_dump(exclude_none=True, exclude={"weight"}) for m in content.messages)
    return Demonstration(where, messages, tuple(content.tools), learnt)
