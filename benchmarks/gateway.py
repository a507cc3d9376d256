"""What does the gateway cost? 32 `openai` clients call a stub policy directly, through Leyden, and through its peers.

Clients, stub and gateway share the machine's cores, and two processes of clients keep them all busy, so the ratio of
the rates is the ratio of CPU time a call. Doors take turns in each round; a ratio is to the direct rate beside it.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import psutil
from gateway_parts import doors
from gateway_parts.doors import CannotStart, Door

LEAST_RATIO, AIMED_RATIO, MOST_FIRST_CHUNK_MS = 0.65, 0.80, 5.0
PROCESSES = 2
ASKED = {
    "tokens": {"logprobs": True, "extra_body": {"return_token_ids": True}},
    "text": {},
}
"""What the agent asks for. Leyden asks the policy for tokens in any case, and takes out what the agent did not want."""
REQUIRED = "tokens"
"""Where every door gives the same bytes. For text alone, direct answers lack all that Leyden records."""


class Clients:
    """Client processes, told what to do by lines of JSON."""

    def __init__(self, stack: ExitStack) -> None:
        command = [doors.OURS, str(doors.PARTS / "clients.py")]
        self._processes = [stack.enter_context(_talking(command)) for _ in range(PROCESSES)]

    def ask(self, tasks: Sequence[dict]) -> list[dict]:
        """The answers to the tasks, one a process, which run at the same time."""
        used = list(zip(self._processes, tasks, strict=False))
        for process, task in used:
            assert process.stdin is not None
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
        answers: list[dict] = []
        for process, _ in used:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.readline()))
        return answers

    def cpu_s(self) -> float:
        return sum(_cpu_s(process.pid) for process in self._processes)


@contextmanager
def _talking(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process  # leaving closes its input, and it ends


def _cpu_s(pid: int | None) -> float:
    """CPU seconds of a process and its children so far."""
    if pid is None:
        return 0.0
    process = psutil.Process(pid)
    return sum(sum(one.cpu_times()[:2]) for one in (process, *process.children(recursive=True)))


def load(clients: Clients, door: Door, direct: Door, asked: str, seconds: float) -> dict:
    """One turn of a door: calls a second, and CPU milliseconds a call of the clients, the policy and the door."""
    share = len(door.clients) // PROCESSES
    parts = [door.clients[place * share : (place + 1) * share] for place in range(PROCESSES)]
    task = {"model": "stub", "extra": ASKED[asked], "seconds": seconds}
    before = (clients.cpu_s(), _cpu_s(direct.pid), _cpu_s(door.pid))
    answers = clients.ask([{**task, "clients": part} for part in parts])
    after = (clients.cpu_s(), _cpu_s(direct.pid), _cpu_s(door.pid))
    calls = sum(answer["calls"] for answer in answers)
    used = [(late - early) * 1000 / (calls + len(door.clients)) for early, late in zip(before, after, strict=True)]
    rate = sum(answer["calls"] / answer["seconds"] for answer in answers)
    return {"rate": rate, "clients_ms": used[0], "policy_ms": used[1], "door_ms": used[2] if door is not direct else 0}


def _used_ms(turn: dict) -> float:
    """CPU time a call of all processes: its inverse is the rate on cores that do nothing else."""
    return turn["clients_ms"] + turn["policy_ms"] + turn["door_ms"]


def first_chunk_ms(clients: Clients, door: Door, asked: str, streams: int) -> list[float]:
    """Milliseconds to the first chunk with text, of streams one after the other."""
    task = {"model": "stub", "extra": ASKED[asked], "streams": streams, "clients": door.clients[:1]}
    return clients.ask([task])[0]["first_chunk_ms"][1:]  # the first one connects


def _open(stack: ExitStack, arguments: argparse.Namespace) -> tuple[Door, list[Door]]:
    folder = stack.enter_context(doors.folder())
    direct = stack.enter_context(doors.policy(folder))
    opened = [direct, stack.enter_context(doors.leyden(folder, direct))]
    peers: dict[str, Callable] = (
        {} if arguments.alone else {"litellm": doors.litellm, "agentlightning 0.3.0": doors.lightning}
    )
    if arguments.agentlightning_v1:
        peers["agentlightning v1"] = partial(doors.lightning_v1, checkout=arguments.agentlightning_v1.resolve())
    for name, make in peers.items():
        try:
            opened.append(stack.enter_context(make(folder, direct)))
        except CannotStart as reason:
            print(f"{name} is left out: {reason}")
    return direct, opened


def measure(clients: Clients, direct: Door, opened: Sequence[Door], arguments: argparse.Namespace) -> dict:
    """{(asked, door's name): {"rate", "ratio", ..., "first_chunk_ms"}}: medians over rounds."""
    table: dict[tuple[str, str], dict] = {}
    for asked in ASKED:
        turns: dict[str, list[dict]] = {door.name: [] for door in opened}
        for _ in range(arguments.rounds):
            beside = load(clients, direct, direct, asked, arguments.seconds)
            for door in opened:
                turn = beside if door is direct else load(clients, door, direct, asked, arguments.seconds)
                ratios = {"ratio": turn["rate"] / beside["rate"], "cpu_ratio": _used_ms(beside) / _used_ms(turn)}
                turns[door.name].append({**turn, **ratios})
        for name, measured in turns.items():
            table[asked, name] = {key: statistics.median(turn[key] for turn in measured) for key in measured[0]}
        _add_first_chunks(table, clients, opened, asked, arguments.streams)
    return table


def _add_first_chunks(table: dict, clients: Clients, opened: Sequence[Door], asked: str, streams: int) -> None:
    waited: dict[str, list[float]] = {door.name: [] for door in opened if door.streams}
    for _ in range(3):
        for door in opened:
            if door.streams:
                waited[door.name] += first_chunk_ms(clients, door, asked, streams)
    for name, values in waited.items():
        table[asked, name]["first_chunk_ms"] = statistics.median(values)


def report(table: dict) -> bool:
    """Print the table and the verdict; whether the requirements are met."""
    print("| asked | door | calls/s | of direct | by CPU | CPU ms/call: door | clients | policy | first chunk, ms |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (asked, name), row in table.items():
        chunk = f"{row['first_chunk_ms']:.1f}" if "first_chunk_ms" in row else "no streams"
        used = f"{row['door_ms']:.2f} | {row['clients_ms']:.2f} | {row['policy_ms']:.2f}"
        ratios = f"{row['ratio']:.2f} | {row['cpu_ratio']:.2f}"
        print(f"| {asked} | {name} | {row['rate']:.0f} | {ratios} | {used} | {chunk} |")
    required = {name: row for (asked, name), row in table.items() if asked == REQUIRED}
    ratio, by_cpu = required["leyden"]["ratio"], required["leyden"]["cpu_ratio"]
    best_peer = max((row["ratio"] for name, row in required.items() if name not in ("direct", "leyden")), default=0)
    later = required["leyden"]["first_chunk_ms"] - required["direct"]["first_chunk_ms"]
    met = ratio >= LEAST_RATIO and ratio > best_peer and later <= MOST_FIRST_CHUNK_MS
    print(
        f"{ratio:.2f} of direct, {by_cpu:.2f} by CPU time (required {LEAST_RATIO}, aimed at {AIMED_RATIO}, best peer "
        f"{best_peer:.2f}), first chunk {later:.1f} ms after direct's (required {MOST_FIRST_CHUNK_MS:g}): "
        f"{'met' if met else 'missed'}"
    )
    return met


def main() -> int:
    """Run all doors; 1 if a requirement was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one door's turn")
    parser.add_argument("--streams", type=int, default=31, help="for the first chunk, three times a door")
    parser.add_argument("--alone", action="store_true", help="Leyden without peers")
    parser.add_argument("--agentlightning-v1", type=Path, metavar="DIR", help="a checkout of Agent Lightning 1.x")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        direct, opened = _open(stack, arguments)
        table = measure(Clients(stack), direct, opened, arguments)
    return 0 if report(table) else 1


if __name__ == "__main__":
    sys.exit(main())
