"""Asks the gateway how long it has held a rollout's requests while weights were swapped."""

import logging

import httpx

from leyden.scope import Scope
from leyden.trust import trusted

__all__ = ["held_s"]

_log = logging.getLogger("leyden.runner")
_TIMEOUT_S = 10.0


async def held_s(scope: Scope) -> float:
    """Seconds until now, a hold that still goes on included; 0 for a rollout that no gateway serves."""
    if not scope.gateway or scope.server_url is None:
        return 0.0
    headers = {"Authorization": f"Bearer {scope.key}"}
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False, verify=trusted()) as client:
            response = await client.get(f"{scope.server_url}/v1/held", headers=headers)
            response.raise_for_status()
            return float(response.json()["held_s"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        _log.warning("rollout %s: the gateway does not say how long it was held: %s", scope.rollout_id, error)
        return 0.0
