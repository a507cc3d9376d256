"""What capture costs the agent: CPU of the calling thread added to each model call, beside other instrumentations.

Each variant has a process of its own, with a transport inside it instead of a network; they are measured in turns of a
few runs, and compared turn by turn. What an instrumentation does in other threads (Leyden's recorder, OpenTelemetry's
batch exporter) is in the last column only.
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
Settle = Callable[[], object]
"""Waits for what other threads have still to do for the runs of a block."""


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


def instrument(variant: str) -> Settle:
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
    return provider.force_flush


def measure(run: Callable[[], Any], runs: int, settle: Settle) -> tuple[float, float]:
    """(median of the calling thread, mean of the whole process) in CPU milliseconds for each run of the agent."""
    took_ms: list[float] = []
    process_s = time.process_time()
    for _ in range(runs):
        begun_ns = time.thread_time_ns()
        run()
        took_ms.append((time.thread_time_ns() - begun_ns) / 1e6)
    settle()
    return statistics.median(took_ms), (time.process_time() - process_s) * 1000 / runs


def blocks(name: str, runs: int, settle: Settle) -> int:
    """Measure a block of runs for each line of input, and print its figures as JSON; how many calls were made."""
    run = agent(name)
    measure(run, WARM_UP, settle)
    made = WARM_UP
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps([ms / CALLS_OF[name] for ms in measure(run, runs, settle)]), flush=True)
        made += runs
    return made * CALLS_OF[name]


def worker(variant: str, name: str, runs: int, server_url: str, key: str) -> None:
    """Measure one variant in this process."""
    if variant != "leyden":
        blocks(name, runs, instrument(variant) if variant != "none" else lambda: None)
        return
    from leyden.capture import flush, install_capture
    from leyden.scope import Scope, enter_scope

    install_capture(require_scope=True)
    with enter_scope(Scope("bench", 1, server_url, key)) as scope:
        made = blocks(name, runs, lambda: flush(scope, timeout_s=60.0))
    if scope.losses or len(scope.call_ids) != made:
        raise RuntimeError(f"capture lost something: {scope.losses[:3]}, {len(scope.call_ids)} of {made} calls")


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


Figures = dict[str, list[tuple[float, float]]]
"""Variant → (caller, whole process) of each block; the blocks of one number were measured one right after the other."""


def collect(name: str, runs: int, num_blocks: int) -> Figures:
    """Figures of every variant. All of their processes live at once and take turns, so that all meet the same machine.

    Leyden has a real server to write to, in this process.
    """
    from leyden.server.serve import BackgroundServer

    environment = {
        **os.environ,
        "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY",
    }
    figures: Figures = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder, BackgroundServer(Path(folder) / "store.sqlite") as server:
        key = asyncio.run(rollout_key(server.url, server.key))
        workers = {
            variant: subprocess.Popen(
                [sys.executable, __file__, "--worker", variant, name, server.url, key, "--runs", str(runs)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for variant in VARIANTS
        }
        for process in workers.values():
            told(process)  # that it is warm
        for _ in range(num_blocks):
            for variant, process in workers.items():
                print("go", file=process.stdin, flush=True)
                figures[variant].append(tuple(json.loads(told(process))))
        for variant, process in workers.items():
            process.communicate()
            if process.returncode:
                raise RuntimeError(f"{variant} ended with {process.returncode}; what it printed above says why")
    return figures


def told(process: "subprocess.Popen[str]") -> str:
    """The next line that a worker prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a worker ended with {process.wait()}; what it printed above says why")
    return line


def report(name: str, figures: Figures) -> float:
    """Print a table; what Leyden adds, as the median over blocks of the difference to the block without hooks."""
    print(
        f"\n| {AGENTS[name]}, CPU ms a call | caller | added | quartiles | added, all threads |\n|---|---|---|---|---|"
    )
    added: dict[str, float] = {}
    for variant, label in VARIANTS.items():
        pairs = list(zip(figures[variant], figures["none"], strict=True))
        differences = [thread - base for (thread, _), (base, _) in pairs]
        low, added[variant], high = statistics.quantiles(differences, n=4)
        whole = statistics.median(process - base for (_, process), (_, base) in pairs)
        caller = statistics.median(thread for (thread, _), _ in pairs)
        beside = "| | |" if variant == "none" else f"{added[variant]:.3f} | {low:.3f} to {high:.3f} | {whole:.3f} |"
        print(f"| {label} | {caller:.3f} | {beside}")
    return added["leyden"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each agent, and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs of the agent in each block")
    parser.add_argument("--blocks", type=int, default=40, help="blocks of each variant")
    parser.add_argument("--worker", nargs=4, metavar=("VARIANT", "AGENT", "URL", "KEY"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        variant, name, url, key = given.worker
        worker(variant, name, given.runs, url, key)
        return 0
    added = {name: report(name, collect(name, given.runs, given.blocks)) for name in AGENTS}
    met = max(added.values()) < LIMIT_MS
    figures = ", ".join(f"{AGENTS[name]} {value:.3f} ms" for name, value in added.items())
    print(f"\ncaller CPU added per call: {figures} (required below {LIMIT_MS} ms): {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
