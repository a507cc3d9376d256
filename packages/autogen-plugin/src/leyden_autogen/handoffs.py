"""Handoffs on their way: who was handed to by which call, until the team's next model call takes it up."""

from dataclasses import dataclass

from leyden.scope import Scope
from leyden_autogen.frames import Frame

__all__ = ["handed_off", "take_handoff"]


@dataclass(frozen=True)
class _Handoff:
    target: str
    call_id: str
    scope: Scope


_waiting: dict[str, _Handoff] = {}
"""By team; a team runs once at a time, and its id is never used again."""


def handed_off(member: Frame, target: str, call_id: str, scope: Scope) -> None:
    """A member's call handed off; of several handoffs in one answer AutoGen follows the first."""
    for team in [team for team, handoff in _waiting.items() if handoff.scope.closed]:
        _waiting.pop(team, None)  # to somebody outside the team, so that nobody took it up
    known = _waiting.get(member.team or "")
    if member.team is not None and (known is None or known.call_id != call_id):
        _waiting[member.team] = _Handoff(target, call_id, scope)


def take_handoff(member: Frame, scope: Scope | None) -> str | None:
    """The call that handed off to this member, at its first call since; None if the team went another way."""
    handoff = _waiting.pop(member.team or "", None)
    taken = handoff is not None and handoff.scope is scope and handoff.target == member.name
    return handoff.call_id if handoff is not None and taken else None
