"""Pages of rollouts: the list, a group side by side, one rollout, one call."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection
from starlette.requests import Request

from leyden.dashboard import queries
from leyden.dashboard.queries import Filter
from leyden.dashboard.site import Page, Site
from leyden.dashboard.timeline import made_calls, time_rows, trained_rows
from leyden.dashboard.tokens import MOST, Token, largest_advantage, shown_tokens, text_of
from leyden.errors import BadInput, NotFound
from leyden.outline import Made
from leyden.said import content
from leyden.types import Call, Credit, Reward, Rollout

__all__ = ["call_page", "group_page", "listing_page", "rollout_page"]

_STATUSES = ("queued", "running", "succeeded", "failed", "incomplete")
_MODES = ("train", "eval", "trace")
_MOST_MEMBERS = 200
_SAID = 1500  # characters of an answer, side by side


async def listing_page(site: Site, request: Request) -> Page:
    """Rollouts, newest first, filtered."""
    wanted = _filter(request)

    def look(connection: Connection) -> tuple[queries.Listed, list[str], list[str], list[str]]:
        names = queries.known_runs(connection), queries.known_labels(connection, "agent")
        return queries.list_rollouts(connection, wanted), *names, queries.known_labels(connection, "reason")

    listed, runs, agents, reasons = await site.store.look(look)
    given = {name: value for name, value in asdict(wanted).items() if value is not None and name != "before"}
    values = {
        "listed": listed,
        "wanted": wanted,
        "filtered": len(given),
        "choices": {"runs": runs, "agents": agents, "reasons": reasons, "statuses": _STATUSES, "modes": _MODES},
        "next_query": urlencode({**given, "before": listed.next}) if listed.next is not None else None,
    }
    return Page(
        "rollouts.html", lambda: values, lambda: {"rollouts": _rated_json(listed.rollouts), "next": listed.next}
    )


def _rated_json(rated: Sequence[tuple[Rollout, float | None]]) -> list[dict[str, Any]]:
    return [{**rollout.model_dump(mode="json"), "return": total} for rollout, total in rated]


def _filter(request: Request) -> Filter:
    given = {name: value.strip() for name, value in request.query_params.items() if value.strip()}
    fields: dict[str, Any] = {name: _parsed(given, name, int) for name in ("step", "before") if name in given}
    fields |= {name: _parsed(given, name, float) for name in ("least", "most") if name in given}
    fields |= {name: given[name] for name in ("run", "mode", "status", "task", "agent", "reason") if name in given}
    return Filter(**fields)


def _parsed(given: dict[str, str], name: str, kind: type[int] | type[float]) -> Any:
    try:
        return kind(given[name])
    except ValueError as error:
        raise BadInput(f"{name} is {given[name]!r}; expected a number") from error


@dataclass(frozen=True)
class Answer:
    """One sampled answer of a call, as shown."""

    said: str
    finish_reason: str | None
    tokens: list[Token]
    left_out: int


@dataclass(frozen=True)
class ShownCall:
    """A call with what it earned."""

    made: Made
    answers: list[Answer]
    rewards: list[Reward]
    credits: list[Credit]

    @property
    def call(self) -> Call:
        return self.made.call

    @property
    def credit(self) -> Credit | None:
        """The latest."""
        return self.credits[-1] if self.credits else None

    @property
    def sampled(self) -> int:
        """How many tokens were sampled."""
        choices = self.call.answer.choices if self.call.answer else ()
        return sum(len(choice.token_ids or ()) for choice in choices)

    @property
    def agent(self) -> str:
        path = self.call.structure.agent if self.call.structure else ()
        return " / ".join(path) or "unstructured"


@dataclass(frozen=True)
class Whole:
    """A rollout and all that belongs to it."""

    rollout: Rollout
    calls: list[Call]
    rewards: list[Reward]
    credits: list[Credit]

    @property
    def total(self) -> float | None:
        """The return; None without a reward."""
        values = [reward.value for reward in self.rewards if reward.agent is None and reward.call_id is None]
        return sum(values) if values else None

    def json(self) -> dict[str, Any]:
        """As `leyden show --json`, and the training rows."""
        parts: dict[str, Any] = {"rollout": self.rollout.model_dump(mode="json")}
        for name in ("calls", "rewards", "credits"):
            parts[name] = [item.model_dump(mode="json") for item in getattr(self, name)]
        parts["rows"] = [asdict(row) for row in trained_rows(self.calls)]
        return parts


async def _read(site: Site, rollout: Rollout) -> Whole:
    ids = [rollout.id]
    calls, rewards = await site.store.calls(ids), await site.store.rewards(ids)
    return Whole(rollout, calls, rewards, await site.store.credits(ids))


async def rollout_page(site: Site, request: Request) -> Page:
    """One rollout, all of it."""
    rollout_id: str = request.path_params["id"]
    whole = await _read(site, await site.store.rollout(rollout_id))
    rollout = whole.rollout
    members = await _members(site, rollout.group_id)
    tokenizer = next((run.tokenizer for run in await site.store.runs() if run.name == rollout.run), None)
    text = text_of(tokenizer)
    ids = [member.id for member, _ in members]
    place = ids.index(rollout.id) if rollout.id in ids else len(ids)

    def values() -> dict[str, Any]:
        return {
            "whole": whole,
            "rollout": rollout,
            "calls": _shown(whole, text, most=MOST),
            "timeline": time_rows(whole.calls),
            "rows": trained_rows(whole.calls),
            "members": members,
            "before": ids[place - 1] if 0 < place < len(ids) else None,
            "after": ids[place + 1] if place + 1 < len(ids) else None,
            "as_text": text is not None,
        }

    return Page("rollout.html", values, whole.json)


def _shown(whole: Whole, text: Callable[[int], str] | None, *, most: int) -> list[ShownCall]:
    """The calls, with so many tokens between them."""
    largest = largest_advantage([credit.advantage for credit in whole.credits])
    found: list[ShownCall] = []
    for made in made_calls(whole.calls):
        call = made.call
        credits = [credit for credit in whole.credits if credit.call_id == call.id]
        advantage = credits[-1].advantage if credits else None
        answers: list[Answer] = []
        for choice in call.answer.choices if call.answer else ():
            tokens = shown_tokens(choice, text, advantage=advantage, largest=largest, most=most)
            most -= len(tokens)
            left_out = len(choice.token_ids or ()) - len(tokens)
            answers.append(Answer(content(choice.message), choice.finish_reason, tokens, left_out))
        rewards = [reward for reward in whole.rewards if reward.call_id == call.id]
        found.append(ShownCall(made, answers, rewards, credits))
    return found


async def _members(site: Site, group_id: str) -> list[tuple[Rollout, float | None]]:
    return await site.store.look(lambda connection: queries.group_members(connection, group_id, _MOST_MEMBERS))


async def group_page(site: Site, request: Request) -> Page:
    """The rollouts of one task, and the best and the worst of them side by side."""
    group_id: str = request.path_params["id"]
    members = await _members(site, group_id)
    if not members:
        raise NotFound(f"no rollout has the group {group_id!r}")
    rated = [(total, rollout) for rollout, total in members if total is not None]
    ends = _ends(rated)
    sides = [(name, await _read(site, rollout)) for name, rollout in ends]

    def values() -> dict[str, Any]:
        return {
            "group_id": group_id,
            "task": members[0][0].task,
            "task_id": members[0][0].task_id,
            "members": members,
            "best_first": sorted(members, key=lambda member: (member[1] is None, -(member[1] or 0.0))),
            "sides": [(name, whole, _shown(whole, None, most=0)) for name, whole in sides],
            "mean": sum(total for total, _ in rated) / len(rated) if rated else None,
            "said": _SAID,
        }

    def data() -> dict[str, Any]:
        whole = {name: whole.json() for name, whole in sides}
        return {"group_id": group_id, "members": _rated_json(members), "sides": whole}

    return Page("group.html", values, data)


def _ends(rated: Sequence[tuple[float, Rollout]]) -> list[tuple[str, Rollout]]:
    """The best and the worst; nobody where all did equally well but one to look at."""
    if not rated:
        return []
    best = max(rated, key=lambda pair: pair[0])
    worst = min(reversed(rated), key=lambda pair: pair[0])
    if best[1].id == worst[1].id:
        return [("only", best[1])]
    names = ("best", "worst") if best[0] > worst[0] else ("first", "last")
    return [(names[0], best[1]), (names[1], worst[1])]


async def call_page(site: Site, request: Request) -> Page:
    """One call, as JSON."""
    call = await site.store.call(request.path_params["id"])
    return Page("", dict, lambda: call.model_dump(mode="json"))
