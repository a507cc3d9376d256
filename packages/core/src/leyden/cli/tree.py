"""The outline of a rollout's calls as a `rich` tree for a terminal."""

import json
from collections.abc import Sequence
from typing import Any

from leyden.outline import Agent, Made, Node, outline
from leyden.said import content, shortened, text
from leyden.types import Call, Credit, Reward, ToolUse

__all__ = ["add_calls"]


def add_calls(
    root: Any, calls: Sequence[Call], rewards: Sequence[Reward], credits: Sequence[Credit], limit: int | None
) -> None:
    """Hang the calls from a branch of a `rich` tree.

    Args:
        root: the branch that all hangs from.
        calls: in the order in which they were made.
        rewards: those that name a call are shown at it.
        credits: what the trainer made of the calls.
        limit: characters of a message that are shown, and only messages that are new; None for everything.
    """
    _Shown(rewards, credits, limit).add(root, outline(calls))


class _Shown:
    def __init__(self, rewards: Sequence[Reward], credits: Sequence[Credit], limit: int | None) -> None:
        self._rewards = rewards
        self._credits = {credit.call_id: credit for credit in credits}
        self._limit = limit

    def add(self, branch: Any, nodes: Sequence[Node]) -> None:
        from rich.markup import escape

        for node in nodes:
            if isinstance(node, Agent):
                leaf = branch.add(f"[cyan]{escape(node.name)}[/]")
            elif isinstance(node, Made):
                leaf = branch.add(_line(node))
                self._add_call(leaf, node)
            else:
                leaf = branch.add(escape(self._use(node.use)), style="red" if node.use.error else "")
            self.add(leaf, node.below)

    def _add_call(self, leaf: Any, made: Made) -> None:
        from rich.markup import escape

        call = made.call
        self._add_messages(leaf, made)
        for attempt in call.attempts:
            if attempt.status != "ok":
                leaf.add(escape(f"attempt {attempt.number} {attempt.status}: {attempt.error}"), style="red")
        if call.structure and call.structure.outcome == "raised":
            leaf.add(escape(f"the framework raised {call.structure.error}"), style="red")
        for reward in self._rewards:
            if reward.call_id == call.id:
                leaf.add(escape(f"reward {reward.value:g} ({reward.name})"))
        credit = self._credits.get(call.id)
        if credit is not None:
            leaf.add(escape(f"credit {credit.advantage:+.3f} ({credit.method}, step {credit.step}): {credit.reason}"))

    def _add_messages(self, leaf: Any, made: Made) -> None:
        """What the model was told since the latest call whose messages all come again, and what it said."""
        from rich.markup import escape

        request, told = made.call.request, made.told
        messages = request.messages if request else ()
        if told is not None and self._limit is not None:
            answer = " and the answer" if told.answer else ""
            leaf.add(f"({told.messages} messages{answer} of {told.number})", style="dim")
            messages = made.new_messages
        for message in messages:
            leaf.add(escape(f"{message.get('role')}: {shortened(content(message), self._limit)}"), style="dim")
        for choice in made.call.answer.choices if made.call.answer else ():
            leaf.add(escape(f"→ {shortened(content(choice.message), self._limit)}  ({choice.finish_reason})"))

    def _use(self, use: ToolUse) -> str:
        if use.kind == "handoff" and not use.error:
            return f"handoff {use.name} → {use.result}"
        arguments = shortened(json.dumps(use.arguments, ensure_ascii=False), self._limit)
        came = f"failed: {use.error}" if use.error else f"= {text(use.result)}"
        return f"{'agent' if use.kind == 'agent' else 'tool'} {use.name}({arguments}) {shortened(came, self._limit)}"


def _line(made: Made) -> str:
    from rich.markup import escape

    call, known = made.call, made.call.structure
    facts = [f"{made.number}", call.status or "dangling"]
    if known is None or not known.agent:
        facts.insert(1, "unstructured")
    if known and known.node and known.node not in known.agent:
        facts.append(f"node {known.node}")
    if made.handed_off_by is not None:
        facts.append(f"handed off by {made.handed_off_by}")
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
