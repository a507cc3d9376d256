"""What LangChain's callbacks say of the runs that are under way: a tree of chains, tools and model calls."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from leyden.scope import Scope
from leyden.types import Structure

__all__ = ["Run", "Runs"]


@dataclass(slots=True)
class Run:
    """One run of a chain, a tool or a model."""

    id: UUID
    parent_id: UUID | None
    metadata: dict[str, Any]
    tool_call_id: str | None = None
    """Of a tool run: which tool call it answers."""
    asker: str | None = None
    """Of a tool run: the Leyden call that asked for it."""
    ran_agent: bool = False
    """Of a tool run: whether another agent called a model within it."""
    call_id: str | None = None
    """The Leyden call of a model run, once the hook has seen it."""
    told_id: str | None = None
    """Of a model run: its id as its structure tells it."""
    is_tool: bool = False
    scope: Scope | None = None
    request: dict[str, Any] | None = None
    """Of a tool run its name and arguments; of a traced model run what was asked."""
    started_at: float = 0.0


class Runs:
    """The runs under way, by id, and which call asked for which tool call."""

    def __init__(self) -> None:
        self._runs: dict[UUID, Run] = {}
        self._told: dict[str, Run] = {}
        self._asked_by: WeakKeyDictionary[Scope, dict[str, str]] = WeakKeyDictionary()
        self._handoffs: dict[tuple[UUID, str], str] = {}
        """(run of a graph, node that it goes to) → the call that handed off."""

    def begin(self, run: Run) -> None:
        """A run has started."""
        self._runs[run.id] = run

    def begin_model(self, run: Run) -> None:
        """A model run has started."""
        self.begin(run)
        tool = next((above for above in self.upwards(run) if above.is_tool), None)
        if tool is not None and not tool.ran_agent:
            tool.ran_agent = self._place(run)[0] != self._place(tool)[0]

    def begin_tool(self, run: Run) -> None:
        """A tool run has started. Who asked is settled now: some servers give the same ids again and again."""
        if run.scope is not None and run.tool_call_id is not None:
            run.asker = self._asked_by.get(run.scope, {}).get(run.tool_call_id)
        self.begin(run)

    def end(self, run_id: UUID) -> Run | None:
        """A run has ended; None if its start was not seen."""
        if self._handoffs:
            for key in [key for key in tuple(self._handoffs) if key[0] == run_id]:
                self._handoffs.pop(key, None)
        run = self._runs.pop(run_id, None)
        if run is not None and run.told_id is not None:
            self._told.pop(run.told_id, None)
        return run

    def told(self, run_id: str) -> Run | None:
        """The model run under way whose structure was told with this id."""
        return self._told.get(run_id)

    def get(self, run_id: UUID) -> Run | None:
        """A run that is under way."""
        return self._runs.get(run_id)

    def asked(self, scope: Scope, tool_call_ids: list[str], call_id: str) -> None:
        """The answer of `call_id` asked for these tool calls."""
        if tool_call_ids:
            self._asked_by.setdefault(scope, {}).update(dict.fromkeys(tool_call_ids, call_id))

    def handed_off(self, run: Run, node: str) -> None:
        """The tool run passes control to a node of the graph around its agent's."""
        outer, _, _ = (_namespace(run) or "").rpartition("|")
        within = [above for above in self.upwards(run) if outer and _namespace(above) == outer]
        if run.asker is not None and within and within[-1].parent_id is not None:
            self._handoffs[within[-1].parent_id, node] = run.asker

    def upwards(self, run: Run) -> Iterator[Run]:
        """The run and those that it runs within, as far as they are known."""
        current: Run | None = run
        while current is not None:
            yield current
            current = self._runs.get(current.parent_id) if current.parent_id else None

    def structure(self, run: Run) -> Structure:
        """Who makes this model call."""
        node = run.metadata.get("langgraph_node")
        agent, parent = self._place(run)
        run.told_id = str(run.id)
        if run.id in self._runs:
            self._told[run.told_id] = run
        return Structure(
            framework="langgraph" if node else "langchain",
            agent=agent,
            node=node,
            step=run.metadata.get("langgraph_step"),
            namespace=_namespace(run),
            parent=parent,
            run_id=run.told_id,
        )

    def _led_by(self, run: Run) -> str | None:
        """The call that led to this run, by a tool call or a handoff."""
        if run.asker is not None or run.parent_id is None:
            return run.asker
        return self._handoffs.get((run.parent_id, run.metadata.get("langgraph_node") or ""))

    def _place(self, run: Run) -> tuple[tuple[str, ...], str | None]:
        """Names of the agents, the outermost first, and the call that led here.

        In a graph that names no agents, its nodes are the agents.
        """
        names: list[str] = []
        parent: str | None = None
        for above in self.upwards(run):
            name = above.metadata.get("lc_agent_name")
            if name and (not names or names[-1] != name):
                names.append(name)
            if parent is None:
                parent = self._led_by(above)
        if names:
            return tuple(reversed(names)), parent
        namespace = _namespace(run)
        return tuple(part.partition(":")[0] for part in namespace.split("|")) if namespace else (), parent


def _namespace(run: Run) -> str | None:
    return run.metadata.get("langgraph_checkpoint_ns") or run.metadata.get("checkpoint_ns") or None
