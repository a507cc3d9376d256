"""The way to the policy: who may pass, and the parts that every exchange shares.

Unlike a load-balancing proxy it belongs to a store: each attempt at the model is on record before its answer is given.
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from leyden.errors import BadInput, Forbidden, LeydenError
from leyden.gateway.caller import caller_of, calling
from leyden.gateway.door import Door
from leyden.gateway.endpoints import Endpoints
from leyden.gateway.exchange import Exchange, Parts
from leyden.gateway.fault import fault, fault_of
from leyden.gateway.measures import Measures
from leyden.gateway.rollouts import Running, RunningRollouts
from leyden.gateway.upstream import Upstream
from leyden.keys import Access
from leyden.store.protocol import Store

__all__ = ["Gateway"]

_log = logging.getLogger("leyden.gateway")


class Gateway:
    """Forwards model requests of running rollouts to the published endpoint, and records them.

    Args:
        unattributed: what to do with a request under the operator's key, whose rollout is unknown.
        hold_timeout_s: how long a request waits while its endpoint is held for a weight swap.
        absent_timeout_s: how long it waits when no endpoint is published.
        call_limit_s: how long a model call may take in all.
    """

    def __init__(
        self,
        store: Store,
        measures: Measures,
        *,
        unattributed: Literal["refuse", "record"] = "refuse",
        hold_timeout_s: float = 600.0,
        absent_timeout_s: float = 5.0,
        call_limit_s: float = 3600.0,
    ) -> None:
        endpoints = Endpoints(store, hold_timeout_s=hold_timeout_s, absent_timeout_s=absent_timeout_s)
        self._parts = Parts(store, endpoints, RunningRollouts(store), Upstream(), measures, call_limit_s)
        self._unattributed = unattributed

    async def open(self, access: Access, door: Door, headers: Mapping[str, str], raw: bytes) -> Exchange:
        """Let a request in.

        Raises:
            Fault: it may not pass, or cannot be read.
        """
        try:
            running = await self._attributed(access)
            caller = caller_of(headers, running, access.attempt or 1)
            calling.set(caller)
            asked, reply = await door.ask(raw, caller, self._parts.store)
        except LeydenError as error:
            raise fault_of(error) from error
        return Exchange(self._parts, caller, asked, reply)

    async def _attributed(self, access: Access) -> Running | None:
        if access.rollout_id is not None:
            return await self._parts.rollouts.admit(access.rollout_id, access.attempt or 0)
        if not access.allows("run"):
            raise Forbidden(f"{access} calls no model; a rollout's own key does")
        if self._unattributed == "refuse":
            self._parts.measures.unattributed["refused"].inc()
            raise fault(
                403,
                "the operator's key names no rollout, and model calls without one are refused here; run the agent with "
                "`leyden run`, or use a rollout's own key",
                code="unattributed",
            )
        self._parts.measures.unattributed["recorded"].inc()
        _log.warning("a model call under the operator's key belongs to no rollout; it is recorded without one")
        return None

    async def held_s(self, access: Access) -> float:
        """How many seconds requests of the rollout that this key opens have been held, until now.

        Raises:
            LeydenError: the key opens no running rollout.
        """
        if access.rollout_id is None:
            raise BadInput("the operator's key names no rollout; ask with a rollout's own key")
        running = await self._parts.rollouts.admit(access.rollout_id, access.attempt or 0)
        return running.held.held_s

    async def models(self) -> list[dict[str, Any]]:
        """The models that can be asked for, as OpenAI lists them."""
        live = [endpoint for endpoint in await self._parts.endpoints.all() if endpoint.state != "gone"]
        by_name = {endpoint.model: endpoint for endpoint in reversed(live)}
        return [
            {"id": name, "object": "model", "created": int(endpoint.published_at), "owned_by": "leyden"}
            for name, endpoint in by_name.items()
        ]

    async def close(self) -> None:
        """Close the connections to policy servers."""
        self._parts.upstream.close()
