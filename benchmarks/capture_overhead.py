"""What capture costs the agent: CPU of the calling thread added to each model call, beside other instrumentations.

Each figure is from processes of their own, interleaved, with a transport inside the process instead of a network. What
an instrumentation does in other threads (Leyden's recorder, OpenTelemetry's batch exporter) is in the last column only.
"""

# pyright: reportMissingImports=false
# The peers are in the environment that `make bench-capture_overhead` makes.

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

LIMIT_MS = 0.15
VARIANTS = {
    "none": "no hooks",
    "leyden": "Leyden",
    "openinference": "OpenInference langchain + openai",
    "otel": "OpenTelemetry GenAI langchain + openai",
}
AGENTS = {"chat": "ChatOpenAI", "graph": "LangGraph agent"}
WARM_UP = 30
CALLS_OF = {"chat": 1, "graph": 2}
"""Model calls of one run."""


def answers(request: Any) -> Any:
    """The model: a tool call if the last message is a user's and there are tools, else a text."""
    import httpx2

    body = json.loads(request.content)
    message: dict[str, Any] = {"role": "assistant", "content": "forty-two"}
    if body.get("tools") and body["messages"][-1]["role"] == "user":
        function = {"name": "double", "arguments": '{"number": 21}'}
        message = {
            **message,
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }
    reason = "tool_calls" if "tool_calls" in message else "stop"
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    choices = [{"index": 0, "message": message, "finish_reason": reason}]
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"]}
    return httpx2.Response(200, json={**head, "choices": choices, "usage": usage})


def agent(name: str) -> Callable[[], Any]:
    """One run of the agent."""
    import httpx2
    from langchain_openai import ChatOpenAI

    client: Any = httpx2.Client(transport=httpx2.MockTransport(answers))
    model = ChatOpenAI(model="m", base_url="http://127.0.0.1:9/v1", api_key="sk-x", http_client=client)  # type: ignore[arg-type]
    asked: Any = [("system", "You do sums."), ("user", "What is twice twenty-one? " * 20)]
    if name == "chat":
        return lambda: model.invoke(asked)
    from langchain.agents import create_agent

    def double(number: int) -> int:
        """Twice the number."""
        return 2 * number

    graph: Any = create_agent(model, [double], name="solver")
    return lambda: graph.invoke({"messages": asked})


def instrument(variant: str) -> None:
    """Turn on OpenInference or OpenTelemetry, exporting in batches to nowhere."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    if variant == "openinference":
        from openinference.instrumentation.langchain import LangChainInstrumentor
        from openinference.instrumentation.openai import OpenAIInstrumentor
    else:
        from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
    LangChainInstrumentor().instrument(tracer_provider=provider)
    OpenAIInstrumentor().instrument(tracer_provider=provider)


def measure(name: str, runs: int) -> tuple[float, float]:
    """(median of the calling thread, mean of the whole process) in CPU milliseconds for each model call."""
    run = agent(name)
    for _ in range(WARM_UP):
        run()
    took_ms: list[float] = []
    process_s = time.process_time()
    for _ in range(runs):
        begun_ns = time.thread_time_ns()
        run()
        took_ms.append((time.thread_time_ns() - begun_ns) / 1e6)
    whole_ms = (time.process_time() - process_s) * 1000 / runs
    return statistics.median(took_ms) / CALLS_OF[name], whole_ms / CALLS_OF[name]


def worker(variant: str, name: str, runs: int, server_url: str, key: str) -> None:
    """Measure one variant in this process; prints the figures as JSON."""
    if variant == "leyden":
        from leyden.capture import flush, install_capture
        from leyden.scope import Scope, enter_scope

        install_capture(require_scope=True)
        with enter_scope(Scope("bench", 1, server_url, key)) as scope:
            figures = measure(name, runs)
        flush(scope, timeout_s=60.0)
        if scope.losses or len(scope.call_ids) != (runs + WARM_UP) * CALLS_OF[name]:
            raise RuntimeError(f"capture lost something: {scope.losses[:3]}, {len(scope.call_ids)} calls")
    else:
        if variant != "none":
            instrument(variant)
        figures = measure(name, runs)
    print(json.dumps(figures))


async def rollout_key(url: str, operator_key: str) -> str:
    """The key of a rollout that runs, for Leyden's records."""
    from leyden.client import HttpStore
    from leyden.types import Rollout

    store = HttpStore(url, operator_key)
    await store.queue([Rollout(id="bench")])
    (claim,) = await store.claim("bench", limit=1, lease_s=3600)
    await store.close()
    assert claim.key is not None
    return claim.key


def collect(name: str, runs: int, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """Figures of every variant, their processes interleaved. Leyden has a real server to write to, in this process."""
    from leyden.server.serve import BackgroundServer

    environment = {
        **os.environ,
        "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY",
    }
    figures: dict[str, list[tuple[float, float]]] = {variant: [] for variant in VARIANTS}
    for _ in range(repeats):
        for variant in VARIANTS:
            with tempfile.TemporaryDirectory() as folder, BackgroundServer(Path(folder) / "store.sqlite") as server:
                key = asyncio.run(rollout_key(server.url, server.key))
                command = [sys.executable, __file__, "--worker", variant, name, server.url, key, "--runs", str(runs)]
                told = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            figures[variant].append(tuple(json.loads(told.stdout.splitlines()[-1])))
    return figures


def report(name: str, figures: dict[str, list[tuple[float, float]]]) -> float:
    """Print a table; what Leyden adds. Of the repeats the least disturbed counts, as with `timeit`."""
    base = min(thread for thread, _ in figures["none"])
    whole_base = min(whole for _, whole in figures["none"])
    print(
        f"\n| {AGENTS[name]}, CPU ms a call | caller, median | added | added, all threads (mean) |\n|---|---|---|---|"
    )
    for variant, label in VARIANTS.items():
        thread = min(thread for thread, _ in figures[variant])
        whole = min(whole for _, whole in figures[variant])
        added = "" if variant == "none" else f"{thread - base:.3f}"
        added_whole = "" if variant == "none" else f"{whole - whole_base:.3f}"
        print(f"| {label} | {thread:.3f} | {added} | {added_whole} |")
    return min(thread for thread, _ in figures["leyden"]) - base


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each agent, and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300, help="runs of the agent in each process")
    parser.add_argument("--repeats", type=int, default=5, help="processes for each variant")
    parser.add_argument("--worker", nargs=4, metavar=("VARIANT", "AGENT", "URL", "KEY"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        variant, name, url, key = given.worker
        worker(variant, name, given.runs, url, key)
        return 0
    added = {name: report(name, collect(name, given.runs, given.repeats)) for name in AGENTS}
    met = max(added.values()) < LIMIT_MS
    figures = ", ".join(f"{AGENTS[name]} {value:.3f} ms" for name, value in added.items())
    print(f"\ncaller CPU added per call: {figures} (required below {LIMIT_MS} ms): {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
