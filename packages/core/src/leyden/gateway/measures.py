"""What Prometheus is told: histograms that the gateway fills, gauges that are set when somebody looks.

One registry for each app, unlike the client library's global one, so that servers in one process do not mix.
"""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from leyden.gateway.meter import Meter
from leyden.store.census import Census
from leyden.types import CallStatus, Endpoint

__all__ = ["Measures"]

_CALL_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_RECORD_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_STEPS = (0, 1, 2, 4, 8, 16)


class Measures:
    """docs/operations.md has the table of them."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        calls = Histogram(
            "leyden_gateway_call_seconds", "Model calls until committed", ["status"], registry=own, buckets=_CALL_S
        )
        records = Histogram("leyden_record_seconds", "Records until committed", ["by"], registry=own, buckets=_RECORD_S)
        self._calls: dict[CallStatus, Histogram] = {
            status: calls.labels(status) for status in ("ok", "error", "cancelled")
        }
        self.recent = Meter()
        """The calls of the last minutes, for the dashboard."""
        self.gateway_record, self.api_record = records.labels("gateway"), records.labels("api")
        self.staleness = Histogram(
            "leyden_policy_staleness_steps", "Newest version minus the sampler's", registry=own, buckets=_STEPS
        )
        unattributed = Counter("leyden_unattributed_calls", "Model calls of no rollout", ["outcome"], registry=own)
        self.unattributed = {outcome: unattributed.labels(outcome) for outcome in ("refused", "recorded")}
        self._rollouts = Gauge("leyden_rollouts", "Rollouts that wait or run", ["status"], registry=own)
        self._lease = Gauge("leyden_oldest_lease_seconds", "Age of the attempt that runs longest", registry=own)
        self._incomplete = Gauge(
            "leyden_incomplete_rollouts", "Of the newest 1000 incomplete rollouts, by reason", ["reason"], registry=own
        )
        self._versions = Gauge("leyden_policy_version", "Version of each endpoint", ["endpoint"], registry=own)

    def ended(self, status: CallStatus, took_s: float) -> None:
        """A model call was answered and committed, so long after its request came."""
        self._calls[status].observe(took_s)
        self.recent.note(status, took_s * 1000)

    def text(self, census: Census, endpoints: Sequence[Endpoint]) -> bytes:
        """All of it in Prometheus' text format."""
        self._rollouts.labels("queued").set(census.queued)
        self._rollouts.labels("running").set(census.running)
        self._lease.set(census.oldest_lease_s)
        self._incomplete.clear()
        for reason, number in census.incomplete.items():
            self._incomplete.labels(reason).set(number)
        self._versions.clear()
        for endpoint in endpoints:
            if endpoint.state != "gone":
                self._versions.labels(endpoint.id).set(endpoint.version)
        return generate_latest(self._registry)
