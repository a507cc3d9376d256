"""How long the server takes for each page of the dashboard, over a store with a million rollouts.

    make bench-dashboard                      # 10^6 rollouts, in a temporary file of about 1 GB
    make bench-dashboard ARGS="--rollouts 10000"

The rollouts are inserted as the store's verbs would leave them; a few with calls are recorded by the verbs themselves.
Figures are CPU seconds of the server's process for one request, the median of several: on a machine that does other
things they are what the page costs, which a clock on the wall is not.
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from leyden.server.serve import BackgroundServer
from leyden.store import SqlStore
from leyden.testing.demo_store import fill_demo
from leyden.types import Rollout

LIMIT_S = 0.2
ROUNDS = 7
PER_GROUP, PER_STEP = 8, 512

PAGES = {
    "runs": "/",
    "run": "/runs/sql-team",
    "compare": "/compare?run=sql-team&run=sql-team-2",
    "rollouts": "/rollouts",
    "rollouts, page 2": "/rollouts?before={middle}",
    "by run": "/rollouts?run=bench-1",
    "by run and step": "/rollouts?run=bench-1&step=3",
    "by task": "/rollouts?task=task-77",
    "by status": "/rollouts?status=incomplete",
    "by run and status": "/rollouts?run=bench-1&status=incomplete",
    "by return": "/rollouts?least=0.4&most=0.6",
    "by return, none": "/rollouts?least=5",
    "by agent": "/rollouts?agent=solver",
    "by agent and status": "/rollouts?agent=solver&status=failed&run=bench-2",
    "by rare agent": "/rollouts?agent=judge&status=failed",
    "by reason": "/rollouts?reason=a+call+was+made+but+never+recorded",
    "by run, mode, none": "/rollouts?run=bench-1&mode=eval&status=failed",
    "by four, none": "/rollouts?run=bench-1&status=succeeded&mode=eval&agent=solver",
    "by two, none": "/rollouts?status=succeeded&least=5",
    "group": "/groups/group-77",
    "rollout": "/rollouts/sql-team-2-s24-g0-r0",
    "live": "/live",
}


def rows(count: int) -> Iterator[tuple[object, ...]]:
    """Rollouts as they end up in the table: nine in ten of three runs succeed, with returns of 0 to 1."""
    now = time.time()
    for number in range(count):
        run, step = f"bench-{number * 3 // count}", number % (count // 3) // PER_STEP
        status = "incomplete" if number % 50 == 7 else "failed" if number % 50 == 8 else "succeeded"
        task_id = f"task-{number // PER_GROUP % 5000}"
        rollout = Rollout(
            id=f"bench-{number}",
            group_id=f"group-{number // PER_GROUP}",
            task_id=task_id,
            run=run,
            step=step,
            mode="train",
            task={"question": f"what is {number} + {number}?", "answer": 2 * number},
            created_at=now - count + number,
        )
        body = rollout.model_dump_json(
            include={
                "id",
                "group_id",
                "task_id",
                "task",
                "mode",
                "run",
                "step",
                "sampling",
                "max_attempts",
                "created_at",
            }
        )
        incomplete = [f"call c{number} was made but never recorded"] if status == "incomplete" else []
        ending = json.dumps({"result": 2 * number, "failure": None, "incomplete": incomplete})
        at = now - count + number
        total = None if status == "incomplete" else (number * 7919 % 1000) / 1000
        ids = (rollout.id, rollout.group_id, run, "train", status, 1, "runner")
        yield (*ids, at, at + 2, body, ending, step, task_id, total)


def fill(path: Path, count: int) -> None:
    """A million rollouts, with their labels."""
    asyncio.run(_demo(path))
    columns = (
        "id, group_id, run, mode, status, attempt, runner, started_at, finished_at, body, ending, step, task_id, total"
    )
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        places = ", ".join("?" * len(columns.split(",")))
        connection.executemany(f"INSERT INTO rollouts ({columns}) VALUES ({places})", rows(count))
        connection.execute(
            "INSERT INTO labels SELECT 'agent', CASE seq % 20000 WHEN 0 THEN 'judge' ELSE 'solver' END, seq "
            "FROM rollouts WHERE run LIKE 'bench-%'"
        )
        connection.execute(
            "INSERT INTO labels SELECT 'reason', 'a call was made but never recorded', seq FROM rollouts "
            "WHERE status = 'incomplete' AND run LIKE 'bench-%'"
        )
    connection.close()


async def _demo(path: Path) -> None:
    store = SqlStore.open(path)
    await fill_demo(store)
    await store.close()


def seconds(client: httpx.Client, address: str) -> float:
    """CPU seconds of one request; this process is the server's, and its client costs a millisecond of them."""
    began = time.process_time()
    answer = client.get(f"/dashboard{address}")
    spent = time.process_time() - began
    answer.raise_for_status()
    return spent


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rollouts", type=int, default=1_000_000)
    count = arguments.parse_args().rollouts
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        began = time.process_time()
        fill(path, count)
        size = path.stat().st_size / 1e9
        print(f"{count:,} rollouts, {size:.2f} GB, filled in {time.process_time() - began:.0f} CPU seconds")
        with BackgroundServer(path) as server:
            headers = {"Authorization": f"Bearer {server.key}"}
            with httpx.Client(base_url=server.url, headers=headers, timeout=120) as client:
                worst = measure(client, count)
    met = worst < LIMIT_S
    print(f"slowest page {worst * 1000:.0f} ms, required < {LIMIT_S * 1000:.0f} ms: {'met' if met else 'MISSED'}")
    return 0 if met else 1


def measure(client: httpx.Client, count: int) -> float:
    """Print the table; the slowest page's median."""
    print(f"{'page':<22}{'median ms':>10}{'most ms':>10}")
    medians: list[float] = []
    for name, address in PAGES.items():
        took = [seconds(client, address.format(middle=count // 2)) for _ in range(ROUNDS)]
        medians.append(statistics.median(took))
        print(f"{name:<22}{medians[-1] * 1000:>10.1f}{max(took) * 1000:>10.1f}", flush=True)
    return max(medians)


if __name__ == "__main__":
    sys.exit(main())
