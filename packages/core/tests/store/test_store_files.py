import os
import random
import sqlite3
from pathlib import Path

import pytest

from leyden.errors import BadConfig
from leyden.merge import merge
from leyden.store import SqlStore
from leyden.types import Attempt, Call, Choice, Request, Rollout


def gateway_call(call_id: str, rollout_id: str) -> Call:
    choice = Choice(message={"role": "assistant", "content": "hi"}, token_ids=(7, 8), logprobs=(-0.5, -0.25))
    made = Attempt(
        number=0,
        id=f"{call_id}-0",
        status="ok",
        started_at=5.0,
        latency_ms=1.0,
        version=3,
        prompt_token_ids=tuple(range(300)),
        choices=(choice,),
    )
    request = Request(messages=({"role": "user", "content": "hi"},), asked={"model": "m"})
    return Call(
        id=call_id,
        rollout_id=rollout_id,
        started_at=5.0,
        captured_by=("gateway",),
        request=request,
        attempts=(made,),
    )


async def test_a_store_is_there_again_when_it_is_opened_again(tmp_path: Path) -> None:
    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="a", task="x")])
    await store.claim("me", limit=1, lease_s=60)
    await store.record([gateway_call("c", "a")])
    await store.close()
    again = SqlStore.open(tmp_path / "store.sqlite")
    assert (await again.rollout("a")).task == "x"
    assert await again.call("c") == gateway_call("c", "a")
    await again.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but long enough to be read as one" * 10)
    with pytest.raises(BadConfig, match="file is not a database"):
        SqlStore.open(path)


async def test_a_long_conversation_costs_what_is_new_in_each_turn(tmp_path: Path) -> None:
    sizes: list[int] = []
    rng = random.Random(0)
    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="a")])
    await store.claim("me", limit=1, lease_s=600)
    prompt: tuple[int, ...] = ()
    messages: tuple[dict, ...] = ()
    for turn in range(100):
        prompt += tuple(rng.randrange(49_152) for _ in range(200))
        messages += ({"role": "user", "content": f"turn {turn} " + "word " * 150},)
        token_ids = tuple(rng.randrange(49_152) for _ in range(100))
        choice = Choice(message={"role": "assistant"}, token_ids=token_ids, logprobs=(-0.5,) * 100)
        attempt = Attempt(
            number=0, status="ok", started_at=turn, latency_ms=1, version=0, prompt_token_ids=prompt, choices=(choice,)
        )
        request = Request(messages=messages)
        await store.record([Call(id=str(turn), rollout_id="a", started_at=turn, request=request, attempts=(attempt,))])
        prompt += token_ids
        if turn % 50 == 49:
            sizes.append(_stored_bytes(tmp_path / "store.sqlite"))
    calls = await store.calls(["a"])
    assert calls[-1].attempts[0].prompt_token_ids == prompt[:-100]
    assert len(calls[-1].request.messages if calls[-1].request else ()) == 100
    await store.close()
    assert sizes[1] < 2.2 * sizes[0]
    assert sizes[1] < 600_000


def _stored_bytes(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        blocks = connection.execute("SELECT SUM(LENGTH(data)) + 40 * COUNT(*) FROM blocks").fetchone()[0]
        calls = connection.execute("SELECT SUM(LENGTH(record) + LENGTH(arrays)) FROM calls").fetchone()[0]
    connection.close()
    return blocks + calls


@pytest.mark.skipif(os.name != "posix", reason="limits the size of a file")
async def test_a_full_disk_is_one_clear_error_and_writing_goes_on_after_it(tmp_path: Path) -> None:
    import resource
    import signal

    from leyden.errors import Unreachable

    store = SqlStore.open(tmp_path / "store.sqlite")
    await store.queue([Rollout(id="before")])
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(Unreachable, match="the store could not write: "):
            await store.queue([Rollout(id=f"big-{n}", task="x" * 20_000) for n in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    await store.queue([Rollout(id="after")])
    ids = {rollout.id for rollout in (await store.rollouts(limit=1000)).rollouts}
    assert {"before", "after"} <= ids
    await store.close()


def test_merging_is_idempotent_and_does_not_depend_on_order() -> None:
    whole = gateway_call("c", "a")
    retry = whole.attempts[0].model_copy(update={"id": "c-1", "number": 1, "status": "error"})
    parts = [
        whole,
        whole.model_copy(update={"attempts": (retry,)}),
        Call(id="c", rollout_id="a", started_at=9.0, captured_by=("adapter",)),
    ]
    import itertools
    from functools import reduce

    merged = {reduce(merge, order).model_dump_json() for order in itertools.permutations(parts)}
    assert len(merged) == 1
    once = reduce(merge, parts)
    assert all(merge(once, part) == once for part in parts)
    assert [attempt.id for attempt in once.attempts] == ["c-0", "c-1"]
