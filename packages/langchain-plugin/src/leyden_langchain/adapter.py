"""The adapter: registers the handler for every run of the process, and ties each HTTP request to its model run.

LangChain tells a handler of a run before the request and never names the run at the request itself; the model's own
methods do, so those are wrapped (a ContextVar set in a callback would be wrong for several prompts at once).
"""

import importlib.util
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers.context import register_configure_hook

from leyden.scope import Scope, current_scope
from leyden.types import Structure
from leyden_langchain.handler import LeydenCallbackHandler
from leyden_langchain.runs import Run

__all__ = ["LangChainAdapter"]

_METHODS = ("_generate", "_agenerate", "_stream", "_astream")
_handler = LeydenCallbackHandler()
# As the variable's default, the handler is seen in every thread; a value that is set is not.
_registered: ContextVar[LeydenCallbackHandler | None] = ContextVar("leyden_langchain_handler", default=_handler)
_hooked = False
_model_run: ContextVar[UUID | None] = ContextVar("leyden_langchain_model_run", default=None)


class LangChainAdapter:
    """Implements `leyden.adapters.Adapter`."""

    name = "langchain"

    def __init__(self) -> None:
        self._originals: dict[str, Any] = {}

    def install(self) -> None:
        """See `Adapter.install`."""
        global _hooked
        _handler.ignored = False
        if not _hooked:
            _hooked = True  # LangChain cannot take a hook back: uninstalled, the handler is ignored
            register_configure_hook(_registered, inheritable=True)
        if self._originals or importlib.util.find_spec("langchain_openai") is None:
            return
        from langchain_openai.chat_models.base import BaseChatOpenAI

        for method in _METHODS:
            self._originals[method] = getattr(BaseChatOpenAI, method)
            setattr(BaseChatOpenAI, method, _WRAPPERS[method](self._originals[method]))

    def uninstall(self) -> None:
        """See `Adapter.uninstall`."""
        _handler.ignored = True
        if self._originals:
            from langchain_openai.chat_models.base import BaseChatOpenAI

            for method, original in self._originals.items():
                setattr(BaseChatOpenAI, method, original)
            self._originals = {}

    def structure(self) -> Structure | None:
        """See `Adapter.structure`. Used up by the first request: a later bare `openai` call is not this run's."""
        scope = current_scope()
        run_id = _model_run.get()
        if run_id is not None:
            _model_run.set(None)
            run = _handler.runs.get(run_id)
            if run is not None:
                return _handler.runs.structure(run, scope)
        return self._ambient(scope)

    def called(self, call_id: str, structure: Structure, scope: Scope) -> None:
        """See `Adapter.called`."""
        run = _handler.runs.get(UUID(structure.run_id)) if structure.run_id else None
        if run is not None:
            run.call_id = call_id
            run.scope = scope

    def _ambient(self, scope: Scope | None) -> Structure | None:
        """A client of `openai` used within a node or tool: the node is known, the model run is none of LangChain's."""
        config = var_child_runnable_config.get()
        if not config:
            return None
        parent_id = getattr(config.get("callbacks"), "parent_run_id", None)
        run = Run(UUID(int=0), parent_id, dict(config.get("metadata") or {}))
        return _handler.runs.structure(run, scope).model_copy(update={"run_id": None})


def _generate(original: Any) -> Any:
    def wrapped(self: Any, messages: Any, stop: Any = None, run_manager: Any = None, **more: Any) -> Any:
        _model_run.set(getattr(run_manager, "run_id", None))
        return original(self, messages, stop, run_manager, **more)

    return wrapped


def _stream(original: Any) -> Any:
    def wrapped(self: Any, *args: Any, run_manager: Any = None, **more: Any) -> Iterator[Any]:
        _model_run.set(getattr(run_manager, "run_id", None))
        yield from original(self, *args, run_manager=run_manager, **more)

    return wrapped


def _astream(original: Any) -> Any:
    async def wrapped(self: Any, *args: Any, run_manager: Any = None, **more: Any) -> AsyncIterator[Any]:
        _model_run.set(getattr(run_manager, "run_id", None))
        async for chunk in original(self, *args, run_manager=run_manager, **more):
            yield chunk

    return wrapped


_WRAPPERS: dict[str, Any] = {"_generate": _generate, "_agenerate": _generate, "_stream": _stream, "_astream": _astream}
