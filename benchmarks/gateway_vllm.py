"""Tokens a second through the gateway against bare vLLM, on what vLLM runs on here: a GPU or a CPU.

`openai` clients ask one vLLM server, straight and through `leyden serve`, in turns; answers are of one length, since
the model's end token is none of its vocabulary. No two prompts begin alike. Straight, they ask once for log
probabilities and token ids, as a trainer has to, and once for text alone; through the gateway for text, and it records
the rest.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import openai
from gateway_parts import doors
from gateway_parts.doors import Door
from verl_parts.endless import SMALL, TINY, make_endless_model

LEAST_RATIO = 0.95
MODEL = "policy"
STRAIGHT = {
    "for tokens": {"logprobs": True, "extra_body": {"return_token_ids": True}},
    "for text": {},
}
_WORDS = " ".join(f"w{place * 7919 % 997}" for place in range(30))
_NUMBER = itertools.count()


@contextmanager
def vllm(folder: Path, model: Path, clients: int) -> Iterator[Door]:
    """A server of vLLM's with its own defaults, but for the room of a CPU's cache."""
    log, port = folder / "vllm.log", doors.free_port()
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(model), "--served-model-name", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    settings = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")}
    with doors.process(command, log, settings) as child:
        doors.until(child, log, lambda told: "startup complete" in told, 600)
        client = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": MODEL}  # any will do
        yield Door("vLLM", [client] * clients, child.pid, model=MODEL)


async def turn(door: Door, calls: int, tokens: int, asked: dict[str, Any]) -> float:
    """Tokens a second of `calls` calls by each client."""
    clients = [openai.AsyncOpenAI(max_retries=0, timeout=600, **one) for one in door.clients]

    async def ask(client: openai.AsyncOpenAI, count: int) -> None:
        for _ in range(count):
            content = f"{time.time_ns()} {next(_NUMBER)} {_WORDS}"
            answer = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": content}], max_tokens=tokens, **asked
            )
            assert answer.usage is not None
            assert answer.usage.completion_tokens == tokens, answer

    await asyncio.gather(*(ask(client, 1) for client in clients))  # connected, warm
    begun = time.perf_counter()
    await asyncio.gather(*(ask(client, calls) for client in clients))
    seconds = time.perf_counter() - begun
    await asyncio.gather(*(client.close() for client in clients))
    return len(clients) * calls * tokens / seconds


def measure(bare: Door, leyden: Door, asked: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens a second by way and round; the ways take turns."""
    rates: dict[str, list[float]] = {"through Leyden": [], **{f"straight, {what}": [] for what in STRAIGHT}}
    for _ in range(asked.rounds):
        for what, fields in STRAIGHT.items():
            rates[f"straight, {what}"].append(asyncio.run(turn(bare, asked.calls, asked.tokens, fields)))
        rates["through Leyden"].append(asyncio.run(turn(leyden, asked.calls, asked.tokens, {})))
    return rates


def report(rates: dict[str, list[float]], asked: argparse.Namespace) -> bool:
    """Print the table and the verdict; whether it is met."""
    print(f"\n{asked.clients} clients, {asked.rounds} rounds of {asked.calls} answers each, of {asked.tokens} tokens\n")
    print("| way | tokens/s, median | least | most |\n|---|---|---|---|")
    for way, values in rates.items():
        print(f"| {way} | {statistics.median(values):.0f} | {min(values):.0f} | {max(values):.0f} |")
    ratios = {what: _ratio(rates["through Leyden"], rates[f"straight, {what}"]) for what in STRAIGHT}
    met = ratios["for tokens"] >= LEAST_RATIO
    print(
        f"\nthrough Leyden {ratios['for text']:.3f} of vLLM asked for text, {ratios['for tokens']:.3f} asked for "
        f"tokens (required {LEAST_RATIO}): {'met' if met else 'missed'}"
    )
    return met


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def main() -> int:
    """Run and report; 1 if it was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=SMALL, help=f"as in a configuration, or {TINY}")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--calls", type=int, default=1, help="of each client in a turn")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(doors.folder())
        make_endless_model(folder / "model", asked.model)
        bare = stack.enter_context(vllm(folder, folder / "model", asked.clients))
        leyden = stack.enter_context(doors.leyden(folder, bare))
        rates = measure(bare, leyden, asked)
    return 0 if report(rates, asked) else 1


if __name__ == "__main__":
    sys.exit(main())
