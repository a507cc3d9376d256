"""The calls of a rollout as one tree, whatever the framework: agents by path, calls under them, tools under the calls.

What a tool led to (a sub-agent, a model that it asked by itself) lies under that tool. Calls are numbered in the order
in which they were made, since the tree cannot show it where branches ran in parallel.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from leyden.types import Call, Credit, Reward, ToolUse

__all__ = ["CallTree", "shortened"]


def shortened(text: str, limit: int | None) -> str:
    """At most so many characters, and how many there were."""
    return text if limit is None or len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


@dataclass
class _Place:
    """A spot where calls go: the top, or what a tool did. The agents that are open are those of the last call."""

    branch: Any
    above: tuple[str, ...] = ()
    """Agents that need not be named again here."""
    open: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    def of_agent(self, path: tuple[str, ...]) -> Any:
        """The branch of this agent; none for a call that no adapter explains."""
        from rich.markup import escape

        kept = self.above if path[: len(self.above)] == self.above else self.above[:-1]
        names = path[len(kept) :] if path[: len(kept)] == kept else path
        same = 0
        while same < min(len(names), len(self.open)) and names[same] == self.open[same][0]:
            same += 1
        del self.open[same:]
        for name in names[same:]:
            self.open.append((name, (self.open[-1][1] if self.open else self.branch).add(f"[cyan]{escape(name)}[/]")))
        return self.open[-1][1] if self.open else self.branch


class CallTree:
    """Adds calls to a `rich` tree.

    Args:
        root: the branch that all hangs from.
        rewards: those that name a call are shown at it.
        credits: what the trainer made of the calls.
        limit: characters of a message that are shown, and only messages that are new; None for everything.
    """

    def __init__(self, root: Any, rewards: Sequence[Reward], credits: Sequence[Credit], limit: int | None) -> None:
        self._top = _Place(root)
        self._rewards = rewards
        self._credits = {credit.call_id: credit for credit in credits}
        self._limit = limit
        self._numbers: dict[str, int] = {}
        self._calls: dict[str, Call] = {}
        self._places: dict[str, _Place] = {}
        """Where a call lies, and, by the tool use's id too, what lies under it."""

    def add(self, call: Call) -> None:
        """Add the next call, in the order in which they were made."""
        from rich.markup import escape

        self._numbers[call.id] = len(self._numbers) + 1
        self._calls[call.id] = call
        path = call.structure.agent if call.structure else ()
        place = self._places[call.id] = self._place(call)
        node = place.of_agent(path).add(self._line(call))
        self._add_messages(node, call)
        for attempt in call.attempts:
            if attempt.status != "ok":
                node.add(escape(f"attempt {attempt.number} {attempt.status}: {attempt.error}"), style="red")
        if call.structure and call.structure.outcome == "raised":
            node.add(escape(f"the framework raised {call.structure.error}"), style="red")
        for reward in self._rewards:
            if reward.call_id == call.id:
                node.add(escape(f"reward {reward.value:g} ({reward.name})"))
        credit = self._credits.get(call.id)
        if credit is not None:
            node.add(escape(f"credit {credit.advantage:+.3f} ({credit.method}, step {credit.step}): {credit.reason}"))
        self._places[f"under {call.id}"] = _Place(node, path)
        for use in call.tools:
            leaf = node.add(escape(self._use(use)), style="red" if use.error else "")
            self._places[use.id] = _Place(leaf, (*path, use.name))

    def _place(self, call: Call) -> _Place:
        """Where the call goes: beside the one that handed off to it, under the tool that led to it, or at the top."""
        parent = self._calls.get((call.structure and call.structure.parent) or "")
        if call.structure is None or parent is None:
            return self._top
        agent = call.structure.agent
        if any(use.kind == "handoff" and agent[-1:] == (use.result,) for use in parent.tools):
            return self._places[parent.id]
        uses = [use for use in parent.tools if use.kind != "handoff"]
        named = [use for use in uses if use.kind == "agent" and use.name in agent]
        during = [use for use in uses if _during(use, call)]
        for found in (named, uses, during):
            if len(found) == 1:
                return self._places[found[0].id]
        return self._places[f"under {parent.id}"]

    def _line(self, call: Call) -> str:
        from rich.markup import escape

        facts = [f"{self._numbers[call.id]}", call.status or "dangling"]
        known = call.structure
        if known is None or not known.agent:
            facts.insert(1, "unstructured")
        if known and known.node and known.node not in known.agent:
            facts.append(f"node {known.node}")
        parent = self._calls.get((known and known.parent) or "")
        if parent is not None and any(use.kind == "handoff" for use in parent.tools):
            facts.append(f"handed off by {self._numbers[parent.id]}")
        if call.context:
            facts.append("context")
        answer = call.answer
        if answer is not None:
            facts += [f"version {answer.version}"] * (answer.version is not None) + [f"{answer.latency_ms:.0f} ms"]
            if answer.prompt_token_ids is not None:
                tokens = sum(len(choice.token_ids or ()) for choice in answer.choices)
                facts.append(f"{len(answer.prompt_token_ids)} + {tokens} tokens")
        if len(call.attempts) > 1:
            facts.append(f"{len(call.attempts)} attempts")
        return f"[bold]{escape('  '.join(facts))}[/]  [dim]{escape(call.id)}[/]"

    def _add_messages(self, node: Any, call: Call) -> None:
        """What the model was told since the latest call whose messages all come again, and what it said."""
        from rich.markup import escape

        messages = call.request.messages if call.request else ()
        known = next((other for other in reversed(self._calls.values()) if self._goes_on(call, other)), None)
        if known is not None and known.request is not None:
            told, answer = len(known.request.messages), ""
            said = [_content(choice.message) for choice in (known.answer.choices if known.answer else ())]
            if len(messages) > told and _content(messages[told]) in said:
                told, answer = told + 1, " and the answer"
            node.add(f"({len(known.request.messages)} messages{answer} of {self._numbers[known.id]})", style="dim")
            messages = messages[told:]
        for message in messages:
            node.add(escape(f"{message.get('role')}: {shortened(_content(message), self._limit)}"), style="dim")
        for choice in call.answer.choices if call.answer else ():
            node.add(escape(f"→ {shortened(_content(choice.message), self._limit)}  ({choice.finish_reason})"))

    def _goes_on(self, call: Call, other: Call) -> bool:
        if self._limit is None or other is call or call.request is None or other.request is None:
            return False
        known = other.request.messages
        return len(known) > 1 and call.request.messages[: len(known)] == known

    def _use(self, use: ToolUse) -> str:
        if use.kind == "handoff" and not use.error:
            return f"handoff {use.name} → {use.result}"
        arguments = shortened(json.dumps(use.arguments, ensure_ascii=False), self._limit)
        came = f"failed: {use.error}" if use.error else f"= {_text(use.result)}"
        return f"{'agent' if use.kind == 'agent' else 'tool'} {use.name}({arguments}) {shortened(came, self._limit)}"


def _during(use: ToolUse, call: Call) -> bool:
    """Whether the call began while the tool ran."""
    began, ended = use.started_at, use.finished_at
    return began is not None and began <= call.started_at and (ended is None or call.started_at <= ended)


def _content(message: dict[str, Any]) -> str:
    """What is said, and the tools that are called."""
    calls = cast("list[dict[str, Any]]", message.get("tool_calls") or ())
    said = (_text(message.get("content")), ", ".join(map(_asked, calls)))
    return " ".join(part for part in said if part)


def _asked(call: dict[str, Any]) -> str:
    function = call.get("function")
    if not isinstance(function, dict):
        return _text(call)
    known = cast("dict[str, Any]", function)
    return f"{known.get('name')}({_spaced(known.get('arguments'))})"


def _spaced(arguments: Any) -> str:
    """Arguments in one form, however they were written."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (TypeError, ValueError):
        return str(arguments)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
