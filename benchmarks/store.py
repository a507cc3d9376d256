"""How fast is the store, and does it stay so? Ours, on disk behind HTTP, beside agentlightning 0.3.0's two stores.

All do the same work (`store_parts/workload.py`) in turns; model calls go to one stub policy, and each store captures
them in its own way. From finish to trainer each one's trainer waits in its own way too, since that is what its user
gets: Leyden's is woken, v1's looks every second, 0.3.0's every five. What a trainer of theirs would get that looked at
the very moment of each finish is printed beside it, and not required: none of them can know it. Then Leyden's
operations are timed with 10³, 10⁵ and 10⁶ rollouts in the store.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from gateway_parts import doors

PARTS = Path(__file__).resolve().parent / "store_parts"
SHAPES = ((32, 6), (100, 10), (1000, 3), (512, 20))
AIMED_FACTOR, MOST_GROWTH = 10.0, 2.0
KEY = "benchmark-key"
PROMPT_TOKENS, SAMPLED_TOKENS = 300, 50
"""Of each call."""


def _told(command: list[str], limit_s: float) -> dict:
    """The line of JSON that a child prints."""
    env = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=limit_s, env=env, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _used_bytes(pid: int | None) -> int:
    return psutil.Process(pid).memory_info().rss


def leyden(folder: Path, policy: str, shapes: list[list[int]], limit_s: float) -> dict:
    """The workload on `leyden serve` with SQLite, calls through its gateway."""
    port, log, file = doors.free_port(), folder / "leyden.log", folder / "store.sqlite"
    command = [doors.OURS, "-m", "leyden", "serve", "--store", str(file), "--port", str(port)]
    with doors.process(command, log, {"LEYDEN_KEY": KEY}) as child:
        doors.until(child, log, lambda told: "serving on" in told, 30)
        before = _used_bytes(child.pid)
        url = f"http://127.0.0.1:{port}"
        endpoint = {"id": "policy", "url": policy, "model": "stub", "version": 1}
        doors.request("PUT", f"{url}/api/endpoints/policy", endpoint, key=KEY)
        figures = _told([doors.OURS, str(PARTS / "ours.py"), url, KEY, json.dumps(shapes), "1"], limit_s)
        figures["memory"] = (_used_bytes(child.pid) - before) / figures["calls"]
    figures["disk"] = sum(part.stat().st_size for part in folder.glob("store.sqlite*")) / figures["calls"]
    for part in folder.glob("store.sqlite*"):
        part.unlink()
    return figures


def lightning_server(folder: Path, policy: str, shapes: list[list[int]], limit_s: float) -> dict:
    """The workload on agentlightning 0.3.0's client-server store, which keeps memory."""
    port, log, program = doors.free_port(), folder / "lightning.log", str(PARTS / "lightning.py")
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with doors.process([sys.executable, program, "serve", str(port)], log, env) as child:
        doors.until(child, log, lambda told: "READY" in told, 60)
        before = _used_bytes(child.pid)
        url = f"http://127.0.0.1:{port}"
        figures = _told([sys.executable, program, "server", policy, json.dumps(shapes), "1", url], limit_s)
        figures["memory"] = (_used_bytes(child.pid) - before) / figures["calls"]
    return figures


def lightning_memory(_: Path, policy: str, shapes: list[list[int]], limit_s: float) -> dict:
    """The workload on agentlightning 0.3.0's dictionaries, in the process that uses them."""
    return _told([sys.executable, str(PARTS / "lightning.py"), "memory", policy, json.dumps(shapes), "1"], limit_s)


def lightning_v1(folder: Path, policy: str, shapes: list[list[int]], limit_s: float, *, checkout: Path) -> dict:
    """The workload on Agent Lightning v1's gateway, from a checkout, calls through it."""
    port, log = doors.free_port(), folder / "lightning_v1.log"
    command = [sys.executable, "-m", "agentlightning.server", "host=127.0.0.1", f"port={port}", "hydra.run.dir=."]
    with doors.process([*command, "default_proxy.model_name=stub"], log, {"PYTHONPATH": str(checkout)}) as child:
        doors.until(child, log, lambda _: doors.answers(f"http://127.0.0.1:{port}/healthz"), 60)
        before = _used_bytes(child.pid)
        url = f"http://127.0.0.1:{port}"
        doors.request("POST", f"{url}/api/models", [{"model": "stub", "endpoint": policy}])
        figures = _told([sys.executable, str(PARTS / "lightning_v1.py"), url, json.dumps(shapes), "1"], limit_s)
        figures["memory"] = (_used_bytes(child.pid) - before) / figures["calls"]
    return figures


Store = Callable[[Path, str, list[list[int]], float], dict]
STORES: dict[str, Store] = {
    "leyden, on disk": leyden,
    "agentlightning 0.3.0, client-server": lightning_server,
    "agentlightning 0.3.0, in process": lightning_memory,
}
V1 = "agentlightning v1, its gateway"
OURS, PEER, _ = STORES


def compare(folder: Path, stores: dict[str, Store], shapes: list[list[int]], rounds: int) -> dict[str, float]:
    """Print how the stores do, shape by shape; the least of our factors over each store that is behind HTTP."""
    turns: dict[str, list[dict]] = {name: [] for name in stores}
    with doors.policy(folder, PROMPT_TOKENS, SAMPLED_TOKENS) as policy:
        url = policy.clients[0]["base_url"]
        for _ in range(rounds):
            for name, run in stores.items():
                turns[name].append(run(folder, url, shapes, 540))

    def median(name: str, *path: str | int) -> float:
        values = []
        for turn in turns[name]:
            value = turn
            for step in path:
                value = value[step]
            values.append(value)
        return statistics.median(values)

    def waits(name: str, kind: str) -> str:
        return f"{median(name, kind, 0):.1f} | {median(name, kind, 1):.1f}"

    print("| store | " + " | ".join(f"{flying} x {calls}, rollouts/s" for flying, calls in shapes), end="")
    print(" | calls/s | records/s | finish to trainer, ms | p95 | asked at once | p95 | memory, bytes a call | disk |")
    print("|---|" + "---|" * (len(shapes) + 8))
    for name, its in turns.items():
        rates = " | ".join(f"{median(name, 'rows', place, 2):.1f}" for place in range(len(shapes)))
        most = max(median(name, "rows", place, 3) for place in range(len(shapes)))
        told = f"{rates} | {most:.0f} | {median(name, 'records_s'):.0f}"
        disk = f"{median(name, 'disk'):.0f}" if "disk" in its[0] else "-"
        print(f"| {name} | {told} | {waits(name, 'wait_ms')} | {waits(name, 'at_once_ms')} | ", end="")
        print(f"{median(name, 'memory'):.0f} | {disk} |")
    more_is_better = [("rows", place, column) for place in range(len(shapes)) for column in (2, 3)] + [("records_s",)]
    less_is_better = [("wait_ms", 0), ("wait_ms", 1), ("memory",)]
    least: dict[str, float] = {}
    print()
    for peer in turns.keys() & {PEER, V1}:
        factors = {row: median(OURS, *row) / median(peer, *row) for row in more_is_better}
        factors |= {row: median(peer, *row) / median(OURS, *row) for row in less_is_better}
        worst = min(factors, key=lambda row: factors[row])
        least[peer] = factors[worst]
        at_once = median(peer, "at_once_ms", 0) / median(OURS, "at_once_ms", 0)
        print(f"{peer}: least ahead in {worst}, {factors[worst]:.2f} times; asked at once {at_once:.2f} times")
    return least


def grow(folder: Path, sizes: list[int], rounds: int) -> tuple[str, float]:
    """Print what operations cost at each size; the operation that grows most from the first, and its factor."""
    told = _told([doors.OURS, str(PARTS / "growth.py"), str(folder), json.dumps(sizes), str(rounds)], 900)
    print(f"\n| operation, ms | {' | '.join(f'{size:,} rollouts' for size in sizes)} | most over least |")
    print("|---|" + "---|" * (len(sizes) + 1))
    growth = {name: max(columns) / columns[0] for name, columns in told["ms"].items()}
    for name, columns in told["ms"].items():
        print(f"| {name} | {' | '.join(f'{one:.2f}' for one in columns)} | {growth[name]:.2f} |")
    print(f"\nfilled in {told['filled_s']:.0f} s; {told['bytes_rollout']:.0f} bytes a rollout of one call")
    worst = max(growth, key=lambda name: growth[name])
    return worst, growth[worst]


def main() -> int:
    """Run all; 1 if a requirement was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="of the whole workload, for each store")
    parser.add_argument("--shapes", default=json.dumps(SHAPES), help="[[rollouts in flight, calls of each], ...]")
    parser.add_argument("--sizes", default="[1000, 100000, 1000000]", help="stored rollouts; [] leaves growth out")
    parser.add_argument("--repeats", type=int, default=60, help="of each operation at each size")
    parser.add_argument("--agentlightning-v1", type=Path, metavar="DIR", help="a checkout of Agent Lightning 1.x")
    arguments = parser.parse_args()
    stores = dict(STORES)
    if arguments.agentlightning_v1:
        stores[V1] = partial(lightning_v1, checkout=arguments.agentlightning_v1.resolve())
    with doors.folder() as folder:
        factors = compare(folder, stores, json.loads(arguments.shapes), arguments.rounds)
        sizes = json.loads(arguments.sizes)
        worst, growth = grow(folder, sizes, arguments.repeats) if sizes else ("nothing", 1.0)
    met = min(factors.values()) > 1 and growth <= MOST_GROWTH
    ahead = ", ".join(f"{factor:.2f} times {name}" for name, factor in factors.items())
    print(
        f"in its worst row {ahead} (required more than 1, aimed at {AIMED_FACTOR:g} for 0.3.0); "
        f"{worst} costs {growth:.2f} times its cost at the least size (required {MOST_GROWTH:g}): "
        f"{'met' if met else 'missed'}"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
