"""`leyden show`: one rollout with its calls in order, what each said, and which credit it got and why."""

import asyncio
import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from leyden.types import Call, Credit, Reward, Rollout

__all__ = ["show"]

SHORT = 300


@dataclass(frozen=True)
class Shown:
    """A rollout and all that belongs to it."""

    rollout: Rollout
    calls: list[Call]
    rewards: list[Reward]
    credits: list[Credit]


def show(
    rollout_id: Annotated[str, typer.Argument(metavar="ID", help="A rollout, the beginning of its id, or a call.")],
    store: Annotated[str | None, typer.Option(help="A database file or URL; default: the newest under runs/.")] = None,
    server: Annotated[str | None, typer.Option(help="A server instead; its key in $LEYDEN_KEY.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Whole messages.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, with all tokens.")] = False,
) -> None:
    """Show one rollout: its calls, their tokens, the rewards, and the credit.

    Example: leyden show calculator-s1-g0-r0
    """
    shown = asyncio.run(_read(rollout_id, store, server))
    if as_json:
        parts: dict[str, Any] = {"rollout": shown.rollout.model_dump(mode="json")}
        for name in ("calls", "rewards", "credits"):
            parts[name] = [item.model_dump(mode="json") for item in getattr(shown, name)]
        print(json.dumps(parts))
    else:
        _print(shown, None if full else SHORT)


async def _read(name: str, store: str | None, server: str | None) -> Shown:
    from leyden.cli.source import find_rollout, open_source

    source = open_source(store, server)
    try:
        rollout = await find_rollout(source, name)
        ids = [rollout.id]
        return Shown(rollout, await source.calls(ids), await source.rewards(ids), await source.credits(ids))
    finally:
        await source.close()


def _print(shown: Shown, limit: int | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.tree import Tree

    rollout = shown.rollout
    whole = [reward for reward in shown.rewards if reward.agent is None and reward.call_id is None]
    total = f"return {sum(r.value for r in whole):.3g}" if whole else "no reward"
    tree = Tree(f"[bold]{escape(rollout.id)}[/]  {rollout.mode}  {rollout.status}  attempt {rollout.attempt}  {total}")
    tree.add(escape(f"task {rollout.task_id}: {_short(json.dumps(rollout.task, ensure_ascii=False), limit)}"))
    credits = {credit.call_id: credit for credit in shown.credits}
    for call in shown.calls:
        mine = [reward for reward in shown.rewards if reward.call_id == call.id]
        _add_call(tree, call, credits.get(call.id), mine, limit)
    if rollout.failure is not None:
        tree.add(escape(f"{rollout.failure.kind}: {rollout.failure.message}"), style="red")
    for reason in rollout.incomplete:
        tree.add(escape(f"incomplete: {reason}"), style="yellow")
    tree.add(escape(f"result: {_short(json.dumps(rollout.result, ensure_ascii=False), limit)}"))
    for reward in shown.rewards:
        whom = f" to {reward.agent or reward.call_id}" if reward.agent or reward.call_id else ""
        tree.add(escape(f"reward {reward.value:g}{whom}  ({reward.name}, by the {reward.source})"))
    Console().print(tree)


def _add_call(tree: Any, call: Call, credit: Credit | None, rewards: list[Reward], limit: int | None) -> None:
    from rich.markup import escape

    answer = call.answer
    who = "/".join(call.structure.agent) if call.structure and call.structure.agent else "unstructured"
    facts = [who, call.status or "dangling"]
    if call.context:
        facts.append("context")
    if answer is not None:
        facts += [f"version {answer.version}", f"{answer.latency_ms:.0f} ms"]
        tokens = sum(len(choice.token_ids or ()) for choice in answer.choices)
        facts.append(f"{len(answer.prompt_token_ids or ())} + {tokens} tokens")
    if len(call.attempts) > 1:
        facts.append(f"{len(call.attempts)} attempts")
    branch = tree.add(f"[cyan]{escape(facts[0])}[/]  {escape('  '.join(facts[1:]))}  [dim]{escape(call.id)}[/]")
    for message in call.request.messages if call.request else ():
        branch.add(escape(f"{message.get('role')}: {_short(_content(message), limit)}"), style="dim")
    for choice in answer.choices if answer else ():
        branch.add(escape(f"→ {_short(_content(choice.message), limit)}  ({choice.finish_reason})"), style="bold")
    for attempt in call.attempts:
        if attempt.status != "ok":
            branch.add(escape(f"attempt {attempt.number} {attempt.status}: {attempt.error}"), style="red")
    for tool in call.tools:
        branch.add(
            escape(f"tool {tool.name}({_short(json.dumps(tool.arguments), limit)}) = {tool.error or tool.result}")
        )
    for reward in rewards:
        branch.add(escape(f"reward {reward.value:g} ({reward.name})"))
    if credit is not None:
        branch.add(escape(f"credit {credit.advantage:+.3f} ({credit.method}, step {credit.step}): {credit.reason}"))


def _content(message: dict[str, Any]) -> str:
    text = message.get("content")
    said = text if isinstance(text, str) else "" if text is None else json.dumps(text, ensure_ascii=False)
    calls = message.get("tool_calls")
    return f"{said} {json.dumps(calls, ensure_ascii=False)}".strip() if calls else said


def _short(text: str, limit: int | None) -> str:
    return text if limit is None or len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
