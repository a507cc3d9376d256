"""The adapter: tells the openai hook which agent calls, and which earlier call led there.

AutoGen's event log names no agent outside a team, no tool call and nothing that failed, and its spans need a tracer
provider; so the methods around which it opens its spans are wrapped instead.
"""

from typing import Any

from leyden.scope import Scope, current_scope
from leyden.threads import carry
from leyden.types import Structure
from leyden_autogen.frames import Frame, current_frame
from leyden_autogen.handoffs import take_handoff
from leyden_autogen.runs import current_run
from leyden_autogen.wrappers import wrapped_methods

__all__ = ["AutoGenAdapter"]


class AutoGenAdapter:
    """Implements `leyden.adapters.Adapter`."""

    name = "autogen"

    def __init__(self) -> None:
        self._originals: list[tuple[type, str, Any]] = []

    def install(self) -> None:
        """See `Adapter.install`."""
        if self._originals:
            return
        carry(current_frame)  # AutoGen runs sync tools in an executor
        for owner, method, wrapper in wrapped_methods():
            original = owner.__dict__[method]
            self._originals.append((owner, method, original))
            setattr(owner, method, wrapper(original))

    def uninstall(self) -> None:
        """See `Adapter.uninstall`."""
        while self._originals:
            owner, method, original = self._originals.pop()
            setattr(owner, method, original)

    def structure(self) -> Structure | None:
        """See `Adapter.structure`. What a tool asks of a model by itself is no agent's call: it has a parent only."""
        frame, run = current_frame.get(), current_run.get()
        if frame is None:
            return None if run is None else Structure(framework="autogen")
        agent = () if frame.kind == "tool" else frame.path
        return Structure(framework="autogen", agent=agent, parent=_parent(frame, current_scope()))

    def called(self, call_id: str, structure: Structure, scope: Scope) -> None:
        """See `Adapter.called`."""
        run = current_run.get()
        if run is not None:
            run.called(call_id, structure, scope)


def _parent(frame: Frame, scope: Scope | None) -> str | None:
    """The call that handed off to this agent just now, else the one whose tool this runs within."""
    handed_off = take_handoff(frame.member, scope) if frame.member is not None else None
    return handed_off or (frame.tool.asker if frame.tool is not None else None)
