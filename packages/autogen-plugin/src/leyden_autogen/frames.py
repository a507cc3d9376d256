"""Where in AutoGen the running code is: a stack of agents at work and of tools under way, in a context variable.

AutoGen tells this only to OpenTelemetry, and only if a tracer provider is installed; here none is needed. A frame lives
as long as the activation that it stands for, so nothing has to be forgotten when a rollout ends.
"""

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Frame", "agent_frame", "current_frame", "enter", "inside"]


@dataclass(eq=False)
class Frame:
    """An agent at work, or a tool that it runs."""

    name: str
    kind: Literal["member", "agent", "tool"]
    """member: an agent of the runtime, that is, a participant or the manager of a team. agent: one that runs alone."""
    above: "Frame | None"
    team: str | None = None
    """A member's team, as the runtime knows it."""
    asked: dict[str, str] = field(default_factory=dict[str, str])
    """Of an agent: the call that asked for a tool call, by the tool call's id."""
    handoffs: dict[str, str] = field(default_factory=dict[str, str])
    """Of an agent: the agent that a handoff goes to, by the name of its tool."""
    asker: str | None = None
    """Of a tool: the call that asked for it."""
    ran_agent: bool = False
    """Of a tool: whether an agent has worked within it."""

    def __post_init__(self) -> None:
        if self.kind != "tool" and self.above is not None and self.above.kind == "tool":
            self.above.ran_agent = True

    def upwards(self) -> Iterator["Frame"]:
        """This frame and those that it stands on."""
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.above

    @property
    def path(self) -> tuple[str, ...]:
        """Names of the agents, the outermost first. A team that is a tool goes by the tool's name."""
        names: list[str] = []
        below: Frame | None = None
        for frame in self.upwards():
            if frame.kind != "tool" or (below is not None and below.kind == "member"):
                names.append(frame.name)
            below = frame
        return tuple(reversed(names))

    @property
    def tool(self) -> "Frame | None":
        """The tool that this runs within."""
        return next((frame for frame in self.upwards() if frame.kind == "tool"), None)

    @property
    def member(self) -> "Frame | None":
        """The member of a team that this works for, within the same tool."""
        for frame in self.upwards():
            if frame.kind == "tool":
                return None
            if frame.kind == "member":
                return frame
        return None


current_frame: ContextVar[Frame | None] = ContextVar("leyden_autogen_frame", default=None)


def agent_frame(name: str) -> Frame:
    """The frame of an agent that starts to work: the one at hand if the team or `run` has told of it already."""
    above = current_frame.get()
    if above is not None and above.kind != "tool" and above.name == name:
        return above
    return Frame(name, "agent", above)


@contextmanager
def enter(frame: Frame) -> Generator[Frame]:
    """Run the block in this frame."""
    token = current_frame.set(frame)
    try:
        yield frame
    finally:
        current_frame.reset(token)


async def inside(variable: ContextVar[Any], value: Any, items: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """The items, each made while the variable has the value; who consumes them between two does not see it."""
    try:
        while True:
            token = variable.set(value)
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
            finally:
                variable.reset(token)
            yield item
    finally:
        await items.aclose()
