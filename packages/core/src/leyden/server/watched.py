"""Routes for who watches a server: whether it lives, whether it is of use, and what it does."""

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from leyden.errors import Unreachable
from leyden.gateway.measures import Measures
from leyden.server.auth import only
from leyden.store import SqlStore
from leyden.store.migrations import HEAD

__all__ = ["watched_router"]


def watched_router(store: SqlStore, measures: Measures, version: str) -> APIRouter:
    """/health, /ready and /metrics."""
    router = APIRouter(tags=["watched"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers; needs no key."""
        return {"status": "ok", "version": version}

    @router.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether its store reads, writes and has this version's tables, else 503; needs no key."""
        schema = await store.schema()
        if schema != HEAD:
            raise Unreachable(
                f"the store's tables are of revision {schema}, this server's of {HEAD}; upgrade the server"
            )
        return {"status": "ready", "version": version, "schema": schema}

    @router.get("/metrics", dependencies=[Depends(only("read"))], response_class=Response)
    async def metrics() -> Response:
        """Prometheus' text format."""
        census, endpoints = await store.census(), await store.endpoints()
        return Response(measures.text(census, endpoints), media_type=CONTENT_TYPE_LATEST)

    return router
