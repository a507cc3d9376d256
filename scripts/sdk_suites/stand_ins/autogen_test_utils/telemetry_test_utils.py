"""Spans that autogen-core's tests look at: an exporter that keeps them, and a tracer provider that fills it at once."""

from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # pyright: ignore[reportMissingImports]
from opentelemetry.sdk.trace.export import (  # pyright: ignore[reportMissingImports]
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)

__all__ = ["MyTestExporter", "get_test_tracer_provider"]


class MyTestExporter(SpanExporter):
    """Keeps the spans that ended, in their order."""

    def __init__(self) -> None:
        self._spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._spans.extend(spans)
        return SpanExportResult.SUCCESS

    def clear(self) -> None:
        """Forget them."""
        self._spans.clear()

    def get_exported_spans(self) -> list[ReadableSpan]:
        """Those that ended since the last `clear`."""
        return list(self._spans)


def get_test_tracer_provider(exporter: SpanExporter) -> TracerProvider:
    """A provider whose spans go to `exporter` when they end."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider
