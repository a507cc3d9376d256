"""Do the SDKs notice our hooks? Runs parts of their own test suites, hooks off and hooks on, and compares the outcomes.

The suites come from the source distributions of the very versions that are installed; langchain-tests' for chat models
runs at our gateway, before a tiny real model. Each difference, and each failure at the gateway, has to be in
`explained.toml`, and each line there has to be seen still.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from gateway import Gateway, gateway

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".cache" / "sdk-suites"


@dataclass(frozen=True)
class Suite:
    """The tests of one SDK that its callbacks, its tracing and its model calls go through."""

    distribution: str
    adapter: str
    tests: tuple[str, ...]
    """Files and folders."""
    folder: Path | None = None
    """Of tests that are ours, made of the distribution's, and run at our gateway; None: the source distribution."""
    beside: tuple[str, ...] = ()
    """Requirements that only this suite has, against what the others need: they go into a folder of its own."""


SUITES = (
    Suite(
        "langchain-core",
        "langchain",
        tuple(f"tests/unit_tests/{part}" for part in ("callbacks", "tracers", "language_models", "runnables")),
    ),
    Suite(
        "langgraph",
        "langchain",
        tuple(
            f"tests/test_{part}.py"
            for part in (
                "graph_callbacks",
                "tracing_interops",
                "config_async",
                "trace_policy",
                "tool_stream_handler",
                "stream_messages_transformer",
                "runtime",
                "messages_state",
            )
        ),
    ),
    Suite(
        "openai-agents",
        "openai-agents",
        (
            "tests/tracing",
            *(
                f"tests/test_{part}.py"
                for part in (
                    "agent_tracing",
                    "responses_tracing",
                    "tracing",
                    "trace_processor",
                    "tracing_errors",
                    "tracing_errors_streamed",
                    "tracing_provider_safe_debug",
                    "runner_tracing_disabled",
                    "provider_span_errors",
                    "disabled_trace_provider_flush",
                    "disabled_trace_provider_shutdown",
                    "run_hooks",
                    "global_hooks",
                    "agent_hooks",
                    "agent_llm_hooks",
                    "start_hook_tools",
                    "start_hook_tool_concurrency",
                    "cancel_streaming",
                    "soft_cancel",
                    "stream_events",
                    "handoff_tool",
                    "agent_as_tool",
                    "agent_runner",
                    "agent_runner_streamed",
                    "guardrails",
                )
            ),
            *(
                f"tests/models/test_openai_{part}.py"
                for part in (
                    "chatcompletions",
                    "chatcompletions_converter",
                    "chatcompletions_stream",
                )
            ),
        ),
    ),
    Suite("autogen-core", "autogen", ("tests",)),
    # autogen-ext's MCP client, which they import, is written for MCP 1; openai-agents has MCP 2.
    Suite(
        "autogen-agentchat",
        "autogen",
        ("tests",),
        beside=("mcp==1.30.0", "httpx-sse==0.4.3", "pydantic-settings==2.16.3", "python-dotenv==1.2.4"),
    ),
    Suite("langchain-tests", "langchain", ("test_chat_model.py",), HERE / "chat_model"),
)


class Served(NamedTuple):
    """The rollout that a suite runs in at the gateway."""

    rollout_id: str
    url: str
    key: str


@dataclass(frozen=True)
class Ran:
    """One run of a suite."""

    outcomes: Mapping[str, str]
    """By the test's id."""
    call_ids: Sequence[str]
    """Model calls that the hooks captured."""
    losses: Sequence[str]
    """Captures that failed."""
    adapters: Sequence[str]
    """Those at work."""

    def passed(self) -> int:
        return sum(outcome == "passed" for outcome in self.outcomes.values())


def source(distribution: str) -> Path:
    """The unpacked source distribution of the installed version, fetched once."""
    version = importlib.metadata.version(distribution)
    stem = f"{distribution.replace('-', '_')}-{version}"
    folder = CACHE / stem
    if not folder.exists():
        fetched = CACHE / "sdist"
        wanted = ["--no-deps", "--no-binary", ":all:", "--dest", str(fetched), f"{distribution}=={version}"]
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", *wanted], check=True)
        with tarfile.open(fetched / f"{stem}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
    return folder


def beside(suite: Suite) -> list[str]:
    """Where the suite's own requirements are, installed once."""
    if not suite.beside:
        return []
    folder = CACHE / "beside" / "-".join(suite.beside)
    if not folder.exists():
        wanted = ["--no-deps", "--target", str(folder), *suite.beside]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return [str(folder)]


def run(suite: Suite, folder: Path, *, hooks: bool, path: Sequence[str], served: Served | None = None) -> Ran:
    """Run the suite's tests in a process of their own; what they print is shown, how they end is not our concern."""
    with TemporaryDirectory() as temporary:
        written = Path(temporary) / "outcomes.json"
        command = [sys.executable, "-m", "pytest", "-p", "leyden_hooks", "--outcomes", str(written)]
        command += ["--hooks"] if hooks else []
        command += ["--rollout", *served] if hooks and served else []
        command += ["-q", "--tb=no", "-p", "no:cacheprovider", "--continue-on-collection-errors", *suite.tests]
        # The order of a set is one thing that differs from run to run without us.
        folders = [str(HERE), str(HERE / "stand_ins"), *beside(suite), *path]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "PYTHONHASHSEED": "0"}
        if served:
            environment |= {"OPENAI_BASE_URL": f"{served.url}/v1", "OPENAI_API_KEY": served.key}
        subprocess.run(command, cwd=folder, env=environment, check=False, stdout=sys.stderr)
        if not written.exists():
            raise SystemExit(f"{suite.distribution}: pytest wrote no outcomes; what it printed above says why")
        return Ran(**json.loads(written.read_text()))


def run_served(suite: Suite, folder: Path, opened: Gateway, *, hooks: bool, path: Sequence[str]) -> Ran:
    """The same at the gateway, in a rollout of its own; what that lacks for training is among the losses."""
    rollout_id = f"{suite.distribution}-{'on' if hooks else 'off'}"
    ran = run(suite, folder, hooks=hooks, path=path, served=Served(rollout_id, opened.url, opened.begin(rollout_id)))
    recorded, lacks = opened.finish(rollout_id, ran.call_ids if hooks else None)
    if hooks and recorded != len(ran.call_ids):
        lacks += (f"{recorded} calls are on record",)
    return replace(ran, losses=[*ran.losses, *lacks])


def compared(suite: Suite, off: Ran, on: Ran, explained: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Print the suite's row of the table; what is wrong about the two runs, a line each."""
    every = {**off.outcomes, **on.outcomes}
    differ = {
        test: f"{off.outcomes.get(test)} without hooks, {on.outcomes.get(test)} with them"
        for test in every
        if off.outcomes.get(test) != on.outcomes.get(test)
    }
    lost = dict.fromkeys([*off.losses, *on.losses], "a capture failed")
    failed = {test: f"{outcome} at the gateway" for test, outcome in off.outcomes.items() if "failed" in outcome}
    listed, allowed = explained.get("differences", {}), explained.get("losses", {})
    version = importlib.metadata.version(suite.distribution)
    cells = (len(every), off.passed(), on.passed(), len(differ), len(differ.keys() & listed.keys()))
    cells += (len(on.call_ids), len(on.losses))
    print(f"| {suite.distribution} {version} | {' | '.join(map(str, cells))} |", flush=True)
    wrong = [*unlisted(differ, listed), *unlisted(lost, allowed)]
    if suite.folder is not None:
        wrong += unlisted(failed, explained.get("failures", {}))
    if suite.adapter not in on.adapters:
        wrong.append(f"the adapter {suite.adapter} is not installed, so the runs compare nothing")
    return [f"{suite.distribution}: {line}" for line in wrong]


def unlisted(seen: Mapping[str, str], listed: Mapping[str, str]) -> list[str]:
    """What was seen without being listed, and what is listed but was not seen."""
    wrong = [f"{name}: {seen[name]}; mend the adapter or explain it" for name in sorted(seen.keys() - listed.keys())]
    return wrong + [f"{name}: explained, but seen no longer" for name in sorted(listed.keys() - seen.keys())]


def main() -> None:
    """Run the suites, print the table, and fail if anything is unexplained."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suites", nargs="*", help="distributions; all if none is named")
    parser.add_argument("--path", action="append", default=[], help="a folder with modules that a suite imports")
    python = ROOT / ".venv" / "bin" / "python"
    parser.add_argument("--trainer", type=Path, default=python, help="a Python that has leyden-trainer, for the model")
    arguments = parser.parse_args()
    explained = tomllib.loads((HERE / "explained.toml").read_text())
    chosen = [suite for suite in SUITES if suite.distribution in arguments.suites or not arguments.suites]
    print("| suite | tests | passed off | passed on | differ | explained | calls captured | captures failed |")
    print("|---|---|---|---|---|---|---|---|")
    wrong: list[str] = []
    outcomes: Counter[str] = Counter()
    for suite in chosen:
        if suite.folder is None:
            folder = source(suite.distribution)
            off, on = (run(suite, folder, hooks=hooks, path=arguments.path) for hooks in (False, True))
        else:
            with gateway(arguments.trainer) as opened:
                off, on = (
                    run_served(suite, suite.folder, opened, hooks=hooks, path=arguments.path) for hooks in (False, True)
                )
        wrong += compared(suite, off, on, explained.get(suite.distribution, {}))
        outcomes.update(off.outcomes.values())
    print(f"\nOutcomes without hooks: {', '.join(f'{n} {name}' for name, n in sorted(outcomes.items()))}.")
    for line in wrong:
        print(line)
    print(f"differences and losses that are not explained: {len(wrong)} (required 0): {'missed' if wrong else 'met'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
