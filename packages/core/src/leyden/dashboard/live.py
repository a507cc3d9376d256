"""The page of what happens now: queue, runners and their leases, the gateway, policy versions."""

import time
from dataclasses import asdict

from starlette.requests import Request

from leyden.dashboard import queries
from leyden.dashboard.charts import Chart, bars
from leyden.dashboard.site import Page, Site
from leyden.dashboard.wording import host
from leyden.gateway.meter import Second

__all__ = ["live_page"]

_LOOK_BACK_S = 600
_BIN_S = 10


async def live_page(site: Site, _: Request) -> Page:
    """Figures of now, and of the last minutes."""
    now = time.time()
    queued, runners, ended = await site.store.look(lambda c: queries.queue_state(c, now - _LOOK_BACK_S))
    endpoints = await site.store.endpoints()
    minute = site.meter.last(60)
    ok = sum(second.ok for second in minute)
    gateway = {
        "requests_per_minute": sum(second.total for second in minute),
        "errors_per_minute": sum(second.error for second in minute),
        "cancelled_per_minute": sum(second.cancelled for second in minute),
        "mean_latency_ms": sum(second.latency_ms for second in minute) / ok if ok else None,
        "total": site.meter.total,
    }
    values = {
        "queued": queued,
        "runners": runners,
        "ended": ended,
        "gateway": gateway,
        "traffic": _traffic(site.meter.last(_LOOK_BACK_S), int(now)),
        "endpoints": endpoints,
        "now": now,
    }
    data = {
        "queued": queued,
        "runners": [asdict(runner) for runner in runners],
        "ended_in_10_minutes": ended,
        "gateway": gateway,
        "endpoints": [
            {**endpoint.model_dump(mode="json", exclude={"key"}), "url": host(endpoint.url)} for endpoint in endpoints
        ],
    }
    return Page("live.html", lambda: values, lambda: data)


def _traffic(seconds: list[Second], now: int) -> Chart | None:
    """Requests of the last ten minutes, by ten seconds."""
    if not seconds:
        return None
    count = _LOOK_BACK_S // _BIN_S
    bins = {name: [0.0] * count for name in ("ok", "error", "cancelled")}
    for second in seconds:
        place = count - 1 - min((now - second.at) // _BIN_S, count - 1)
        for name, values in bins.items():
            values[place] += getattr(second, name)
    xs = [float(-_LOOK_BACK_S + (place + 1) * _BIN_S) for place in range(count)]
    return bars("Model requests", xs, list(bins.items()), note="of the last ten minutes, by ten seconds")
