"""The adapter: registers the handler for every run of the process, and ties each HTTP request to its model run.

LangChain tells a handler of a run before the request and never names the run at the request itself. With several
prompts at once all starts come first, so the methods that serve a single prompt say which one it is.
"""

import copy
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManager
from langchain_core.callbacks.manager import ahandle_event
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

from leyden.scope import Scope
from leyden.types import Structure
from leyden_langchain.handler import LeydenCallbackHandler, install_handler, model_run
from leyden_langchain.runs import Run

__all__ = ["LangChainAdapter"]

_handler = LeydenCallbackHandler()
# As the variable's default, the handler is seen in every thread; a value that is set is not.
_registered: ContextVar[LeydenCallbackHandler | None] = ContextVar("leyden_langchain_handler", default=_handler)
_hooked = False


class LangChainAdapter:
    """Implements `leyden.adapters.Adapter`."""

    name = "langchain"

    def __init__(self) -> None:
        self._originals: list[tuple[type, str, Any]] = []

    def install(self) -> None:
        """See `Adapter.install`."""
        global _hooked
        install_handler(_handler)
        if not _hooked:
            _hooked = True  # LangChain cannot take a hook back: uninstalled, the handler is ignored
            register_configure_hook(_registered, inheritable=True)
        if self._originals:
            return
        for owner, method, wrapper in _WRAPPERS:
            original = getattr(owner, method, None)
            if original is not None:  # the two of version 2 streams are younger than the oldest langchain-core
                self._originals.append((owner, method, original))
                setattr(owner, method, wrapper(original))

    def uninstall(self) -> None:
        """See `Adapter.uninstall`."""
        install_handler(None)
        while self._originals:
            setattr(*self._originals.pop())

    def structure(self) -> Structure | None:
        """See `Adapter.structure`. Used up by the first request: a later bare `openai` call is not this run's."""
        run_id = model_run.get()
        if run_id is not None:
            model_run.set(None)
            run = _handler.runs.get(run_id)
            if run is not None:
                return _handler.runs.structure(run)
        return self._ambient()

    def called(self, call_id: str, structure: Structure, scope: Scope) -> None:
        """See `Adapter.called`."""
        run = _handler.runs.told(structure.run_id) if structure.run_id else None
        if run is not None:
            run.call_id = call_id
            run.scope = scope

    def _ambient(self) -> Structure | None:
        """A client of `openai` used within a node or tool: the node is known, the model run is none of LangChain's."""
        config = var_child_runnable_config.get()
        if not config:
            return None
        parent_id = getattr(config.get("callbacks"), "parent_run_id", None)
        run = Run(UUID(int=0), parent_id, dict(config.get("metadata") or {}))
        return _handler.runs.structure(run).model_copy(update={"run_id": None})


def _generate(original: Any) -> Any:
    def wrapped(self: Any, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any) -> Any:
        model_run.set(getattr(run_manager, "run_id", None))
        return original(self, messages, stop, run_manager, **more)

    return wrapped


def _agenerate(original: Any) -> Any:
    async def wrapped(self: Any, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any) -> Any:
        model_run.set(getattr(run_manager, "run_id", None))
        return await original(self, messages, stop, run_manager, **more)

    return wrapped


def _events(original: Any) -> Any:
    def wrapped(self: Any, *args: Any, run_manager: Any = None, **more: Any) -> Iterator[Any]:
        model_run.set(getattr(run_manager, "run_id", None))
        yield from original(self, *args, run_manager=run_manager, **more)

    return wrapped


def _aevents(original: Any) -> Any:
    async def wrapped(self: Any, *args: Any, run_manager: Any = None, **more: Any) -> AsyncIterator[Any]:
        model_run.set(getattr(run_manager, "run_id", None))
        async for event in original(self, *args, run_manager=run_manager, **more):
            yield event

    return wrapped


def _on_llm_start(original: Any) -> Any:
    """Where any handler runs inline, LangChain tells no other of an async completion: ours is told apart from them."""

    async def wrapped(self: Any, serialized: Any, prompts: Any, run_id: UUID | None = None, **more: Any) -> Any:
        if _handler not in self.handlers:
            return await original(self, serialized, prompts, run_id, **more)
        others = copy.copy(self)
        others.handlers = [handler for handler in self.handlers if handler is not _handler]
        managers = await original(others, serialized, prompts, run_id, **more)
        place = {"parent_run_id": self.parent_run_id, "tags": self.tags, "metadata": self.metadata, **more}
        for manager, prompt in zip(managers, prompts, strict=True):
            manager.handlers = self.handlers
            told = (serialized, [prompt])
            await ahandle_event([_handler], "on_llm_start", "ignore_llm", *told, run_id=manager.run_id, **place)
        return managers

    return wrapped


_WRAPPERS: tuple[tuple[type, str, Any], ...] = (
    (BaseChatModel, "_generate_with_cache", _generate),
    (BaseChatModel, "_agenerate_with_cache", _agenerate),
    (BaseChatModel, "_iter_v2_events", _events),
    (BaseChatModel, "_aiter_v2_events", _aevents),
    (AsyncCallbackManager, "on_llm_start", _on_llm_start),
)
