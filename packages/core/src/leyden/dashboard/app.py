"""`dashboard`: the pages, put together; `leyden.server.app` mounts it at /dashboard."""

import asyncio

from starlette.applications import Starlette

from leyden.dashboard.access import Doorkeeper
from leyden.dashboard.live import live_page
from leyden.dashboard.rollouts import call_page, group_page, listing_page, rollout_page
from leyden.dashboard.runs import compare_page, run_page, runs_page
from leyden.dashboard.site import Site, site_app
from leyden.gateway.meter import Meter
from leyden.keys import Keys
from leyden.store import SqlStore

__all__ = ["dashboard"]


def dashboard(store: SqlStore, keys: Keys, meter: Meter, stopping: asyncio.Event) -> Starlette:
    """The dashboard of a store, and of the gateway whose meter this is; its streams end when `stopping` is set."""
    pages = {
        "/": runs_page,
        "/runs/{name:path}": run_page,
        "/compare": compare_page,
        "/rollouts": listing_page,
        "/rollouts/{id:path}": rollout_page,
        "/groups/{id:path}": group_page,
        "/calls/{id:path}": call_page,
        "/live": live_page,
    }
    return site_app(Site(store, Doorkeeper(keys), meter, stopping), pages)
