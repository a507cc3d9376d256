"""What capture costs the agent: CPU of the calling thread added to each model call, beside other instrumentations.

Hooks are turned on and off within one process (blocks of runs: on, off, off, on), so that a difference is between the
same objects moments apart; a process that turns nothing on shows the noise. Its transport is no network. What an
instrumentation does outside the runs (Leyden's recorder, OpenTelemetry's batch exporter) is in the last column.
"""

# pyright: reportMissingImports=false
# The peers are in the environment that `make bench-capture_overhead` makes.

import argparse
import asyncio
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_MS = 0.15
VARIANTS = {
    "none": "nothing turned on (noise)",
    "leyden": "Leyden",
    "openinference": "OpenInference langchain + openai",
    "otel": "OpenTelemetry GenAI langchain + openai",
}
AGENTS = {"chat": "ChatOpenAI", "graph": "LangGraph agent"}
WARM_UP = 30
SETTLE_IN = 3
"""Runs after each turn of the switch that are not counted: Python looks up patched methods anew."""
CALLS_OF = {"chat": 1, "graph": 2}
"""Model calls of one run."""


@dataclass(frozen=True)
class Switch:
    """How to turn an instrumentation on and off, and how to see that it was."""

    on: Callable[[], object]
    off: Callable[[], object]
    """Leaves the process as if it had never been on."""
    settle: Callable[[], object]
    """Waits for what other threads have still to do for the runs of a block."""
    seen: Callable[[], int]
    """How many calls (or spans) it has recorded."""


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


def peer(variant: str) -> Switch:
    """OpenInference or OpenTelemetry, exporting in batches to nowhere."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    spans_seen: list[int] = []

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            spans_seen.append(len(spans))
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere()))
    if variant == "openinference":
        from openinference.instrumentation.langchain import LangChainInstrumentor
        from openinference.instrumentation.openai import OpenAIInstrumentor
    else:
        from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor
        from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor
    instrumentors = (LangChainInstrumentor(), OpenAIInstrumentor())

    def on() -> None:
        for instrumentor in instrumentors:
            instrumentor.instrument(tracer_provider=provider)

    def off() -> None:
        for instrumentor in instrumentors:
            instrumentor.uninstrument()

    return Switch(on, off, provider.force_flush, lambda: sum(spans_seen))


def leyden(scope: Any) -> Switch:
    """Leyden's capture, as `leyden run` turns it on."""
    from langchain_core.tracers import context

    from leyden.capture import flush, install_capture, uninstall_capture

    hooks: list[Any] = context._configure_hooks  # type: ignore[reportPrivateUsage]
    without = list(hooks)

    def off() -> None:
        uninstall_capture()
        # LangChain has no way to take a hook back; the baseline must not carry the handler, though it ignores all.
        hooks[:] = without

    def on() -> None:
        hooks[:] = with_hook
        install_capture(require_scope=True)

    install_capture(require_scope=True)
    with_hook = list(hooks)
    off()
    if len(with_hook) != len(without) + 1:
        raise RuntimeError(f"LangChain has {len(with_hook)} hooks with capture, expected {len(without) + 1}")
    return Switch(on, off, lambda: flush(scope, timeout_s=60.0), lambda: len(scope.call_ids))


def measure(run: Callable[[], Any], runs: int, settle: Callable[[], object]) -> tuple[float, float]:
    """CPU milliseconds for each run of the agent: (median in the caller, mean outside the runs)."""
    for _ in range(SETTLE_IN):
        run()
    settle()
    gc.collect()  # else one block pays for what another left behind
    took_ms: list[float] = []
    process_s = time.process_time()
    for _ in range(runs):
        begun_ns = time.thread_time_ns()
        run()
        took_ms.append((time.thread_time_ns() - begun_ns) / 1e6)
    settle()
    # OpenTelemetry exports what is left in the thread that flushes: work of the background all the same.
    outside_ms = (time.process_time() - process_s) * 1000 - sum(took_ms)
    return statistics.median(took_ms), outside_ms / runs


def measure_turn(run: Callable[[], Any], runs: int, switch: Switch) -> dict[str, float]:
    """Blocks on, off, off, on, so that a machine that grows steadily slower adds nothing; CPU milliseconds a run."""
    blocks: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    for turned_on, turn in ((True, switch.on), (False, switch.off), (False, None), (True, switch.on)):
        if turn is not None:
            turn()
        before = switch.seen()
        blocks[turned_on].append(measure(run, runs, switch.settle))
        if not turned_on and switch.seen() != before:
            raise RuntimeError(f"{switch.seen() - before} calls or spans were recorded while it was turned off")
    switch.off()
    caller = {turned_on: statistics.mean(caller for caller, _ in some) for turned_on, some in blocks.items()}
    outside = {turned_on: statistics.mean(outside for _, outside in some) for turned_on, some in blocks.items()}
    return {"off": caller[False], "added": caller[True] - caller[False], "outside": outside[True] - outside[False]}


def take_turns(name: str, runs: int, switch: Switch) -> int:
    """Measure a turn for each line of input, and print its figures as JSON; how many calls were made while on."""
    run = agent(name)
    for turn in (switch.on, switch.off):
        turn()
        for _ in range(WARM_UP):
            run()
    gc.freeze()  # what is there to stay is not looked through again before each block
    num_on = WARM_UP
    print("ready", flush=True)
    for _ in sys.stdin:
        figures = measure_turn(run, runs, switch)
        print(json.dumps({figure: ms / CALLS_OF[name] for figure, ms in figures.items()}), flush=True)
        num_on += 2 * (SETTLE_IN + runs)
    switch.settle()
    return num_on * CALLS_OF[name]


def worker(variant: str, name: str, runs: int, server_url: str, key: str) -> None:
    """Measure one variant in this process."""
    if variant == "none":
        take_turns(name, runs, Switch(lambda: None, lambda: None, lambda: None, lambda: 0))
        return
    if variant != "leyden":
        switch = peer(variant)
        num_on = take_turns(name, runs, switch)
        if switch.seen() < num_on:
            raise RuntimeError(f"{variant} recorded {switch.seen()} spans of {num_on} calls")
        return
    from leyden.scope import Scope, enter_scope

    with enter_scope(Scope("bench", 1, server_url, key)) as scope:
        num_on = take_turns(name, runs, leyden(scope))
    if scope.losses or len(scope.call_ids) != num_on:
        raise RuntimeError(f"capture lost something: {scope.losses[:3]}, {len(scope.call_ids)} of {num_on} calls")


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


Figures = dict[str, list[dict[str, float]]]
"""Variant → the figures of each turn (see `measure_turn`)."""


def collect(name: str, runs: int, num_turns: int) -> Figures:
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
        for _ in range(num_turns):
            for variant, process in workers.items():
                print("go", file=process.stdin, flush=True)
                figures[variant].append(json.loads(told(process)))
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


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Two of the values between which the median lies with a confidence of at least 0.95, whatever the distribution.

    They are the ones at equal ranks from both ends, by the binomial distribution with p = 1/2; at least six values.
    """
    num = len(values)
    rank, outside = 0, 2 / 2**num
    while outside + 2 * math.comb(num, rank + 1) / 2**num <= 0.05:
        rank += 1
        outside += 2 * math.comb(num, rank) / 2**num
    return sorted(values)[rank], sorted(values)[num - 1 - rank]


def report(name: str, figures: Figures) -> tuple[float, float, float]:
    """Print a table; what Leyden adds, as the median over turns of on less off, and its interval."""
    print(f"\n| {AGENTS[name]}, CPU ms a call | off | added | 95 % interval | added in the background |")
    print("|---|---|---|---|---|")
    told_of: dict[str, tuple[float, float, float]] = {}
    for variant, label in VARIANTS.items():
        off, added, outside = ([turn[figure] for turn in figures[variant]] for figure in ("off", "added", "outside"))
        low, high = median_interval(added)
        told_of[variant] = statistics.median(added), low, high
        print(
            f"| {label} | {statistics.median(off):.3f} | {statistics.median(added):.3f} | {low:.3f} to {high:.3f} "
            f"| {statistics.median(outside):.3f} |"
        )
    return told_of["leyden"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each agent, and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="runs of the agent in each block")
    parser.add_argument("--turns", type=int, default=100, help="turns (on, off, off, on) of each variant; at least 6")
    parser.add_argument("--worker", nargs=4, metavar=("VARIANT", "AGENT", "URL", "KEY"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        variant, name, url, key = given.worker
        worker(variant, name, given.runs, url, key)
        return 0
    if given.turns < 6:
        parser.error(f"--turns must be at least 6 for an interval of the median, got {given.turns}")
    added = {name: report(name, collect(name, given.runs, given.turns)) for name in AGENTS}
    met = max(median for median, _, _ in added.values()) < LIMIT_MS
    figures = ", ".join(
        f"{AGENTS[name]} {median:.3f} ms ({low:.3f} to {high:.3f})" for name, (median, low, high) in added.items()
    )
    print(f"\ncaller CPU added per call: {figures} (required below {LIMIT_MS} ms): {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
