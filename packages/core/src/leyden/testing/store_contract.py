"""What every store must do, as tests: subclass `StoreContract`, give it an async fixture `store`, and run pytest.

Only the verbs of `leyden.store.protocol.Store` are used, so that the same tests hold for a file and for a server.
"""

import asyncio
from typing import Any

import pytest
from pydantic import JsonValue

from leyden.errors import BadInput, Conflict, LeaseLost, NotFound
from leyden.store.protocol import Store
from leyden.testing.noting_contract import Noting
from leyden.testing.records import claimed, ended, rewarded, sampled, told
from leyden.types import (
    Call,
    Choice,
    Credit,
    Endpoint,
    Failure,
    Rollout,
    Sampling,
)

__all__ = ["StoreContract"]

PATIENCE_S = 60.0  # of waits that end as soon as what they wait for comes
SHORT_S = 0.05  # of leases that are meant to run out, and of waits that are meant to end empty


class Queueing:
    """Queue, claim, leases."""

    async def test_a_queued_rollout_reads_back_as_it_was_given(self, store: Store) -> None:
        given: dict[str, Any] = {"id": "one", "group_id": "g", "task_id": "t", "mode": "train", "run": "r", "step": 4}
        task: JsonValue = {"question": "6 × 7?", "tries": [1, 2.5, None]}
        rollout = Rollout(**given, task=task, sampling=Sampling(temperature=1.0, seed=7), max_attempts=2)
        await store.queue([rollout])
        assert await store.rollout("one") == rollout

    async def test_queueing_the_same_again_changes_nothing(self, store: Store) -> None:
        rollout = Rollout(id="one", task="a")
        await store.queue([rollout])
        await store.claim("ann", limit=1, lease_s=600)
        await store.queue([rollout])
        assert (await store.rollout("one")).status == "running"

    async def test_queueing_other_content_under_a_known_id_is_a_conflict_and_adds_none(self, store: Store) -> None:
        await store.queue([Rollout(id="one", group_id="g", task="a")])
        with pytest.raises(Conflict, match="one"):
            await store.queue([Rollout(id="new"), Rollout(id="one", group_id="g", task="b")])
        with pytest.raises(NotFound):
            await store.rollout("new")

    async def test_an_unknown_rollout_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nobody"):
            await store.rollout("nobody")

    async def test_pages_follow_the_order_of_queueing(self, store: Store) -> None:
        names = [f"r{number}" for number in range(5)]
        await store.queue([Rollout(id=name) for name in names])
        first = await store.rollouts(limit=3)
        rest = await store.rollouts(after=first.cursor, limit=3)
        end = await store.rollouts(after=rest.cursor)
        assert [r.id for r in (*first.rollouts, *rest.rollouts)] == names
        assert (first.more, rest.more, end.rollouts, end.more) == (True, False, (), False)
        assert end.cursor == rest.cursor

    async def test_pages_can_be_of_a_run_a_group_a_mode_or_a_status(self, store: Store) -> None:
        await store.queue([Rollout(id="a", run="x", group_id="g", mode="train"), Rollout(id="b", run="x", mode="eval")])
        await store.queue([Rollout(id="c", run="y", group_id="g", mode="train")])
        await store.claim("ann", limit=1, lease_s=600)
        pages = [
            await store.rollouts(run="x"),
            await store.rollouts(group_id="g"),
            await store.rollouts(mode="eval"),
            await store.rollouts(status="queued"),
            await store.rollouts(run="x", mode="train", status="running"),
        ]
        assert [[r.id for r in page.rollouts] for page in pages] == [["a", "b"], ["a", "c"], ["b"], ["b", "c"], ["a"]]

    async def test_claims_come_oldest_first_each_as_its_first_attempt(self, store: Store) -> None:
        await store.queue([Rollout(id=name) for name in ("a", "b", "c")])
        claims = await store.claim("ann", limit=2, lease_s=600)
        assert [(c.rollout.id, c.rollout.attempt) for c in claims] == [("a", 1), ("b", 1)]
        rollout = await store.rollout("a")
        assert rollout == claims[0].rollout
        assert rollout.runner == "ann"
        assert (rollout.lease_until or 0.0) > (rollout.started_at or 0.0) > 0.0

    async def test_a_claim_waits_for_work_and_wakes_when_it_comes(self, store: Store) -> None:
        waiting = asyncio.create_task(store.claim("ann", limit=1, lease_s=600, wait_s=PATIENCE_S))
        assert await store.claim("bob", limit=1, lease_s=600, wait_s=SHORT_S) == []
        await store.queue([Rollout(id="one")])
        assert [claim.rollout.id for claim in await waiting] == ["one"]

    async def test_eight_claimers_never_get_the_same_rollout(self, store: Store) -> None:
        names = {f"r{number}" for number in range(100)}
        await store.queue([Rollout(id=name) for name in sorted(names)])

        async def take_all(runner: str) -> list[str]:
            taken: list[str] = []
            while claims := await store.claim(runner, limit=3, lease_s=600):
                taken += [claim.rollout.id for claim in claims]
            return taken

        taken = await asyncio.gather(*(take_all(f"runner {number}") for number in range(8)))
        assert sorted(name for some in taken for name in some) == sorted(names)

    async def test_a_heartbeat_renews_what_is_held_and_names_it(self, store: Store) -> None:
        await claimed(store, "a", "b")
        await claimed(store, "c", runner="bob")
        before = (await store.rollout("a")).lease_until or 0.0
        held = await store.heartbeat("ann", [("a", 1), ("b", 2), ("c", 1), ("x", 1)], lease_s=6000)
        after = (await store.rollout("a")).lease_until or 0.0
        assert held == ["a"]
        assert after > before + 3000 > 3000

    async def test_a_lease_that_runs_out_makes_the_next_attempt(self, store: Store) -> None:
        await store.queue([Rollout(id="one")])
        await store.claim("ann", limit=1, lease_s=SHORT_S)
        claims = await store.claim("bob", limit=1, lease_s=600, wait_s=PATIENCE_S)
        assert [(c.rollout.id, c.rollout.attempt, c.rollout.runner) for c in claims] == [("one", 2, "bob")]
        assert await store.heartbeat("ann", [("one", 1)], lease_s=600) == []
        with pytest.raises(LeaseLost, match="one"):
            await store.finish(ended("one"))
        assert (await store.rollout("one")).status == "running"

    async def test_a_lease_that_runs_out_in_the_last_attempt_ends_the_rollout(self, store: Store) -> None:
        await store.queue([Rollout(id="one", max_attempts=1)])
        await store.claim("ann", limit=1, lease_s=SHORT_S)
        (rollout,) = await store.wait(["one"], timeout_s=PATIENCE_S)
        assert rollout.status == "incomplete"
        assert "lease" in rollout.incomplete[0]
        with pytest.raises(LeaseLost):
            await store.finish(ended("one", attempt=2))

    async def test_a_heartbeat_may_shorten_a_lease(self, store: Store) -> None:
        await claimed(store, "one", max_attempts=1)
        await store.heartbeat("ann", [("one", 1)], lease_s=SHORT_S)
        (rollout,) = await store.wait(["one"], timeout_s=PATIENCE_S)
        assert rollout.status == "incomplete"

    async def test_a_released_rollout_is_queued_again_and_its_attempt_is_not_counted(self, store: Store) -> None:
        await claimed(store, "one", max_attempts=1)
        await store.release("bob", [("one", 1)])
        assert (await store.rollout("one")).status == "running"
        await store.release("ann", [("one", 1)])
        rollout = await store.rollout("one")
        assert (rollout.status, rollout.runner, rollout.lease_until) == ("queued", None, None)
        (claim,) = await store.claim("bob", limit=1, lease_s=600)
        finished = await store.finish(ended("one", attempt=claim.rollout.attempt, runner="bob", status="lost"))
        assert finished.status == "incomplete"

    async def test_the_number_of_a_released_attempt_is_never_used_again(self, store: Store) -> None:
        await claimed(store, "one", max_attempts=2)
        for number in (1, 2, 3):
            await store.release("ann", [("one", number)])
            (claim,) = await store.claim("ann", limit=1, lease_s=600)
            assert (claim.rollout.attempt, claim.rollout.released) == (number + 1, number)
        await store.release("ann", [("one", 3)])
        with pytest.raises(LeaseLost, match="one"):
            await store.finish(ended("one", attempt=3))
        assert (await store.finish(ended("one", attempt=4, status="lost"))).status == "queued"
        await store.claim("ann", limit=1, lease_s=600)
        assert (await store.finish(ended("one", attempt=5, status="lost"))).status == "incomplete"

    async def test_a_claim_that_is_cancelled_keeps_nothing(self, store: Store) -> None:
        waiting = asyncio.create_task(store.claim("ann", limit=1, lease_s=600, wait_s=PATIENCE_S))
        assert await store.claim("bob", limit=1, lease_s=600, wait_s=SHORT_S) == []
        queued = asyncio.create_task(store.queue([Rollout(id="one", max_attempts=1)]))
        waiting.cancel()
        await queued
        (claim,) = await store.claim("bob", limit=1, lease_s=600, wait_s=PATIENCE_S)
        assert (claim.rollout.id, claim.rollout.runner) == ("one", "bob")


class Recording:
    """Calls and rewards."""

    async def test_a_call_reads_back_exactly(self, store: Store) -> None:
        await claimed(store, "one")
        long = (*range(1000), 2**31)
        choices = (
            Choice(message={"content": "a"}, token_ids=long, logprobs=(-0.1,) * len(long)),  # -0.1 is no float32
            Choice(message={"content": None}, token_ids=(5,), logprobs=(-0.5,)),
            Choice(message={"content": "no tokens"}),
            Choice(message={"content": ""}, token_ids=(), logprobs=()),
        )
        calls = [
            sampled("one", "many", choices=choices, prompt_token_ids=long),
            sampled("one", "none", choices=(), prompt_token_ids=None),
            sampled("one", "empty", prompt_token_ids=()),
            Call(id="bare", rollout_id="one"),
        ]
        await store.record(calls)
        assert [await store.call(call.id) for call in calls] == calls

    async def test_the_two_sides_of_a_call_merge_in_either_order(self, store: Store) -> None:
        await claimed(store, "one")
        await store.record([sampled("one", "x"), told("one", "y")])
        await store.record([told("one", "x"), sampled("one", "y")])
        x, y = await store.calls(["one"])
        for call in (x, y):
            assert call.captured_by == ("adapter", "gateway")
            assert call.started_at == 99.5
            assert call.structure == told("one", call.id).structure
            assert call.tools == told("one", call.id).tools
            assert call.attempts == sampled("one", call.id).attempts
            assert call.request == sampled("one", call.id).request

    async def test_recording_again_changes_nothing_and_other_content_is_a_conflict(self, store: Store) -> None:
        await claimed(store, "one")
        await store.record([sampled("one", "x")])
        await store.record([sampled("one", "x")])
        with pytest.raises(Conflict, match="x"):
            await store.record([sampled("one", "new"), sampled("one", "x", latency_ms=13.0)])
        assert await store.calls(["one"]) == [sampled("one", "x")]

    async def test_a_call_of_an_unknown_rollout_is_refused(self, store: Store) -> None:
        with pytest.raises(NotFound, match="nobody"):
            await store.record([sampled("nobody", "x")])
        with pytest.raises(NotFound):
            await store.call("x")

    async def test_an_unattributed_call_is_kept(self, store: Store) -> None:
        await store.record([sampled(None, "x")])
        assert await store.call("x") == sampled(None, "x")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"choices": (Choice(message={}, token_ids=(1, 2), logprobs=(-0.5,)),)},
            {"choices": (Choice(message={}, token_ids=(1,), logprobs=(0.5,)),)},
            {"choices": (Choice(message={}, token_ids=(1,), logprobs=(-9999.0,)),)},
            {"choices": (Choice(message={}, token_ids=(-1,), logprobs=(-0.5,)),)},
            {"prompt_token_ids": (-1,)},
        ],
    )
    async def test_impossible_numbers_are_refused(self, store: Store, wrong: dict[str, Any]) -> None:
        await claimed(store, "one")
        with pytest.raises(BadInput, match="x"):
            await store.record([sampled("one", "fine"), sampled("one", "x", **wrong)])
        assert await store.calls(["one"]) == []

    async def test_calls_come_by_rollout_as_asked_for_and_by_start(self, store: Store) -> None:
        await claimed(store, "one", "two")
        for name, rollout_id, started_at in (("late", "one", 9.0), ("early", "one", 1.0), ("other", "two", 5.0)):
            await store.record([Call(id=name, rollout_id=rollout_id, started_at=started_at)])
        assert [call.id for call in await store.calls(["two", "one"])] == ["other", "early", "late"]

    async def test_a_finished_rollout_takes_no_new_calls_but_an_adapters_late_word(self, store: Store) -> None:
        await claimed(store, "one")
        await store.record([sampled("one", "x")])
        await store.finish(ended("one", rewards=(rewarded("one"),)))
        await store.record([sampled("one", "x")])
        await store.record([told("one", "x")])
        assert (await store.call("x")).structure == told("one", "x").structure
        with pytest.raises(Conflict, match="one"):
            await store.record([sampled("one", "new")])
        with pytest.raises(Conflict, match="one"):
            await store.record([sampled("one", "x", number=1, id="a retry")])

    async def test_five_hundred_concurrent_records_are_all_kept(self, store: Store) -> None:
        await claimed(store, "one", "two")
        calls = [sampled(("one", "two")[number % 2], f"{number:03}") for number in range(500)]
        await asyncio.gather(*(store.record([call]) for call in calls))
        assert await store.calls(["one", "two"]) == sorted(calls, key=lambda call: (call.rollout_id, call.id))

    async def test_rewards_read_back_in_the_order_in_which_they_came(self, store: Store) -> None:
        await claimed(store, "one", "two")
        await store.record([sampled("one", "x")])
        rewards = [
            rewarded("two", 0.25, id="c", name="style", source="rule"),
            rewarded("one", True, id="b", agent="writer", source="agent"),
            rewarded("one", -1.5, id="a", call_id="x"),
        ]
        await store.reward(rewards)
        await store.reward(rewards[:1])
        assert await store.rewards(["one", "two"]) == rewards
        assert await store.rewards(["one"]) == rewards[1:]

    async def test_a_reward_with_another_value_is_a_conflict_and_adds_none(self, store: Store) -> None:
        await claimed(store, "one")
        first = rewarded("one", 1.0, id="a")
        await store.reward([first])
        with pytest.raises(Conflict, match="a"):
            await store.reward([rewarded("one", 1.0, id="b"), rewarded("one", 0.0, id="a")])
        assert await store.rewards(["one"]) == [first]

    async def test_a_reward_of_nothing_known_is_refused(self, store: Store) -> None:
        await claimed(store, "one", "two")
        await store.record([sampled("two", "x")])
        for wrong in (rewarded("nobody"), rewarded("one", call_id="nothing"), rewarded("one", call_id="x")):
            with pytest.raises(NotFound):
                await store.reward([wrong])
        assert await store.rewards(["one", "two"]) == []

    async def test_a_finished_rollout_can_be_rewarded(self, store: Store) -> None:
        await claimed(store, "one", mode="trace")
        await store.finish(ended("one"))
        await store.reward([rewarded("one", id="a")])
        assert [reward.id for reward in await store.rewards(["one"])] == ["a"]


class Finishing:
    """Finish, wait, endpoints, credits."""

    async def test_a_complete_rollout_succeeds_with_its_result(self, store: Store) -> None:
        await claimed(store, "one")
        await store.record([sampled("one", "x")])
        reward = rewarded("one", 0.5, id="a")
        rollout = await store.finish(ended("one", result={"answer": 42}, rewards=(reward,), call_ids=("x",)))
        assert (rollout.status, rollout.result, rollout.incomplete) == ("succeeded", {"answer": 42}, ())
        assert rollout.finished_at is not None
        assert rollout.lease_until is None
        assert await store.rollout("one") == rollout
        assert await store.rewards(["one"]) == [reward]

    async def test_a_reward_that_came_before_counts(self, store: Store) -> None:
        await claimed(store, "one")
        await store.reward([rewarded("one")])
        assert (await store.finish(ended("one"))).status == "succeeded"

    async def test_a_failed_rollout_is_data_and_keeps_its_failure(self, store: Store) -> None:
        await claimed(store, "one")
        failure = Failure(kind="agent_error", message="ValueError: no", traceback="…")
        rollout = await store.finish(ended("one", status="failed", failure=failure, rewards=(rewarded("one", 0),)))
        assert (rollout.status, rollout.failure, rollout.incomplete) == ("failed", failure, ())

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"prompt_token_ids": None}, "prompt token ids"),
            ({"choices": (Choice(message={"content": "text only"}),)}, "token ids"),
            ({"choices": ()}, "token ids"),
            ({"version": None}, "version"),
        ],
    )
    async def test_an_answer_that_lacks_something_makes_it_incomplete(
        self, store: Store, changes: dict[str, Any], reason: str
    ) -> None:
        await claimed(store, "one")
        await store.record([sampled("one", "x", **changes), sampled("one", "fine")])
        rollout = await store.finish(ended("one", rewards=(rewarded("one"),)))
        assert rollout.status == "incomplete"
        (told_reason,) = rollout.incomplete
        assert "call x" in told_reason
        assert reason in told_reason

    async def test_missing_and_dangling_calls_make_it_incomplete_each_by_its_id(self, store: Store) -> None:
        await claimed(store, "one")
        await store.record([told("one", "dangling")])
        call_ids = ("missing", "dangling")
        rollout = await store.finish(ended("one", rewards=(rewarded("one"),), call_ids=call_ids, wait_s=SHORT_S))
        assert rollout.status == "incomplete"
        assert [any(f"call {name} " in why for why in rollout.incomplete) for name in call_ids] == [True, True]
        assert len(rollout.incomplete) == 2

    async def test_finish_waits_for_the_records_of_the_named_calls(self, store: Store) -> None:
        await claimed(store, "one")
        outcome = ended("one", rewards=(rewarded("one"),), call_ids=("x",), wait_s=PATIENCE_S)
        finishing = asyncio.create_task(store.finish(outcome))
        await store.record([told("one", "x")])
        assert (await store.rollout("one")).status == "running"
        await store.record([sampled("one", "x")])
        assert (await finishing).status == "succeeded"

    async def test_calls_without_an_answer_and_calls_of_other_models_need_no_tokens(self, store: Store) -> None:
        await claimed(store, "one")
        nothing = {"choices": (), "prompt_token_ids": None, "version": None}
        judge = sampled("one", "judge", **nothing).model_copy(update={"context": True})
        calls = [sampled("one", status, status=status, **nothing) for status in ("error", "cancelled")]
        await store.record([*calls, judge])
        rollout = await store.finish(ended("one", rewards=(rewarded("one"),)))
        assert (rollout.status, rollout.incomplete) == ("succeeded", ())

    async def test_a_rollout_without_a_reward_of_its_own_is_incomplete(self, store: Store) -> None:
        await claimed(store, "one", mode="eval")
        await store.record([sampled("one", "x")])
        await store.reward([rewarded("one", agent="writer"), rewarded("one", call_id="x")])
        rollout = await store.finish(ended("one"))
        assert rollout.status == "incomplete"
        assert "reward" in rollout.incomplete[0]

    async def test_what_the_runner_says_is_incomplete_is(self, store: Store) -> None:
        await claimed(store, "one")
        rollout = await store.finish(ended("one", incomplete=("a hook failed",), rewards=(rewarded("one"),)))
        assert (rollout.status, rollout.incomplete) == ("incomplete", ("a hook failed",))

    async def test_tracing_demands_neither_tokens_nor_reward(self, store: Store) -> None:
        await claimed(store, "one", mode="trace")
        await store.record([told("one", "dangling")])
        assert (await store.finish(ended("one"))).status == "succeeded"

    async def test_a_lost_attempt_is_tried_again_and_its_records_are_not_current(self, store: Store) -> None:
        await claimed(store, "one")
        await store.record([sampled("one", "x")])
        await store.reward([rewarded("one")])
        rollout = await store.finish(ended("one", status="lost"))
        assert (rollout.status, rollout.attempt, rollout.lease_until) == ("queued", 1, None)
        (claim,) = await store.claim("bob", limit=1, lease_s=600)
        assert claim.rollout.attempt == 2
        await store.record([sampled("one", "late")])
        second = sampled("one", "y").model_copy(update={"attempt": 2})
        await store.record([second])
        assert (await store.calls(["one"]), await store.rewards(["one"])) == ([second], [])
        assert await store.call("x") == sampled("one", "x")
        assert await store.call("late") == sampled("one", "late")

    async def test_the_last_attempt_lost_ends_incomplete(self, store: Store) -> None:
        await claimed(store, "one", max_attempts=1)
        failure = Failure(kind="infrastructure", message="the worker died")
        rollout = await store.finish(ended("one", status="lost", failure=failure))
        assert rollout.status == "incomplete"
        assert "the worker died" in rollout.incomplete[0]

    async def test_only_its_runner_finishes_an_attempt(self, store: Store) -> None:
        await claimed(store, "one")
        for wrong in (ended("one", runner="bob"), ended("one", attempt=2)):
            with pytest.raises(LeaseLost, match="one"):
                await store.finish(wrong.model_copy(update={"rewards": (rewarded("one"),)}))
        assert await store.rewards(["one"]) == []
        with pytest.raises(NotFound, match="nobody"):
            await store.finish(ended("nobody"))

    async def test_finishing_twice_is_the_same_as_once(self, store: Store) -> None:
        await claimed(store, "one")
        outcome = ended("one", result=1, rewards=(rewarded("one"),), call_ids=("missing",))
        first = await store.finish(outcome)
        assert await store.finish(outcome) == first
        assert await store.rewards(["one"]) == list(outcome.rewards)

    async def test_wait_tells_of_those_that_finished_as_soon_as_there_is_one(self, store: Store) -> None:
        await claimed(store, "a", "b", "c", mode="trace")
        assert await store.wait(["a", "b"], timeout_s=SHORT_S) == []
        waiting = asyncio.create_task(store.wait(["a", "b"], timeout_s=PATIENCE_S))
        await store.finish(ended("c"))
        await store.finish(ended("b"))
        assert [rollout.id for rollout in await waiting] == ["b"]
        await store.finish(ended("a"))
        assert {rollout.id for rollout in await store.wait(["a", "b"], timeout_s=0)} == {"a", "b"}

    async def test_publishing_an_endpoint_again_replaces_it(self, store: Store) -> None:
        policy = Endpoint(url="http://127.0.0.1:1/v1", model="m", version=1, key="secret", published_at=1.0)
        judge = Endpoint(id="judge", url="http://127.0.0.1:2/v1", model="j", published_at=2.0)
        newer = policy.model_copy(update={"version": 2, "state": "held", "published_at": 3.0})
        await store.publish(policy)
        await store.publish(judge)
        assert await store.endpoints() == [judge, policy]
        await store.publish(newer)
        assert await store.endpoints() == [newer, judge]

    async def test_the_latest_credit_of_a_call_in_a_step_stays(self, store: Store) -> None:
        await claimed(store, "one", "two")
        first = Credit(call_id="x", rollout_id="one", run="r", step=1, method="broadcast", advantage=0.5, reason="why")
        newer = first.model_copy(update={"method": "rloo", "advantage": 0.75})
        later = first.model_copy(update={"step": 2})
        other = first.model_copy(update={"call_id": "y", "rollout_id": "two"})
        await store.credit([first, later, other])
        await store.credit([newer])
        assert await store.credits(["one"]) == [newer, later]
        assert await store.credits([]) == []


class StoreContract(Queueing, Recording, Finishing, Noting):
    """All of it."""
