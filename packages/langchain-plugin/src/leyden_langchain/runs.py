"""What LangChain's callbacks say of the runs that are under way: a tree of chains, tools and model calls."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from leyden.scope import Scope
from leyden.types import Structure

__all__ = ["Run", "Runs"]


@dataclass
class Run:
    """One run of a chain, a tool or a model."""

    id: UUID
    parent_id: UUID | None
    metadata: dict[str, Any]
    tool_call_id: str | None = None
    """The call that a tool run answers."""
    call_id: str | None = None
    """The Leyden call of a model run, once the hook has seen it."""
    scope: Scope | None = None
    request: dict[str, Any] = field(default_factory=dict[str, Any])
    started_at: float = 0.0


class Runs:
    """The runs under way, by id, and which call asked for which tool call."""

    def __init__(self) -> None:
        self._runs: dict[UUID, Run] = {}
        self._asked_by: dict[tuple[int, str], str] = {}

    def begin(self, run: Run) -> None:
        """A run has started."""
        self._runs[run.id] = run

    def end(self, run_id: UUID) -> Run | None:
        """A run has ended; None if its start was not seen."""
        return self._runs.pop(run_id, None)

    def get(self, run_id: UUID) -> Run | None:
        """A run that is under way."""
        return self._runs.get(run_id)

    def asked(self, scope: Scope, tool_call_ids: list[str], call_id: str) -> None:
        """The answer of `call_id` asked for these tool calls."""
        for tool_call_id in tool_call_ids:
            self._asked_by[id(scope), tool_call_id] = call_id

    def asker(self, scope: Scope | None, tool_call_id: str | None) -> str | None:
        """The call that asked for a tool call."""
        return None if scope is None or tool_call_id is None else self._asked_by.get((id(scope), tool_call_id))

    def forget(self, scope: Scope) -> None:
        """The rollout is over."""
        self._asked_by = {key: call for key, call in self._asked_by.items() if key[0] != id(scope)}

    def upwards(self, run: Run) -> Iterator[Run]:
        """The run and those that it runs within, as far as they are known."""
        current: Run | None = run
        while current is not None:
            yield current
            current = self._runs.get(current.parent_id) if current.parent_id else None

    def structure(self, run: Run, scope: Scope | None) -> Structure:
        """Who makes this model call."""
        metadata = run.metadata
        namespace = metadata.get("langgraph_checkpoint_ns") or metadata.get("checkpoint_ns") or None
        node = metadata.get("langgraph_node")
        tools = (above.tool_call_id for above in self.upwards(run) if above.tool_call_id)
        return Structure(
            framework="langgraph" if node else "langchain",
            agent=self._agent(run, namespace),
            node=node,
            step=metadata.get("langgraph_step"),
            namespace=namespace,
            parent=next((call for tool in tools if (call := self.asker(scope, tool))), None),
            run_id=str(run.id),
        )

    def _agent(self, run: Run, namespace: str | None) -> tuple[str, ...]:
        """Names of the agents, the outermost first; in a graph that names none, its nodes are the agents."""
        names: list[str] = []
        for above in self.upwards(run):
            name = above.metadata.get("lc_agent_name")
            if name and (not names or names[-1] != name):
                names.append(name)
        if names:
            return tuple(reversed(names))
        return tuple(part.partition(":")[0] for part in namespace.split("|")) if namespace else ()
