"""What the pages answer, as JSON and as HTML, over HTTP."""

import re
from typing import Any

import httpx
import pytest

from leyden.dashboard.charts import Series, bars, curve
from leyden.dashboard.runs import differences, flattened
from leyden.dashboard.timeline import time_rows
from leyden.dashboard.tokens import shown_tokens
from leyden.types import Call, Choice, Structure

GROUP = "sql-team-2-s8-g0"


def listed(operator: httpx.Client, query: str) -> list[str]:
    answer = operator.get(f"/dashboard/rollouts?as=json&{query}")
    assert answer.status_code == 200, answer.text
    return [rollout["id"].removeprefix("sql-team-2-") for rollout in answer.json()["rollouts"]]


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("status=queued", ["s9-g0-r3", "s9-g0-r2"]),
        ("status=running&run=sql-team-2", ["s9-g0-r1", "s9-g0-r0"]),
        ("status=running&run=other", []),
        ("run=sql-team-2&step=9&status=queued", ["s9-g0-r3", "s9-g0-r2"]),
        ("task=churn&least=1", ["s8-g1-r2", "s8-g1-r0"]),
        ("least=0.4&most=0.6", ["s8-g2-r1", "s8-g1-r1", "s8-g0-r1"]),
        ("agent=reviewer&status=failed", ["s8-g2-r4", "s8-g1-r4", "s8-g0-r4"]),
        ("agent=nobody", []),
        ("mode=eval", []),
        (
            "reason=… of at most … attempts were lost, number … because: its worker ended with signal …",
            ["s8-g2-r5", "s8-g1-r5", "s8-g0-r5"],
        ),
    ],
)
def test_rollouts_are_found_by_any_mixture_of_filters(operator: httpx.Client, query: str, ids: list[str]) -> None:
    assert listed(operator, query) == ids


def test_pages_of_rollouts_follow_each_other_without_a_gap(operator: httpx.Client) -> None:
    new = [{"id": f"many-{number}", "run": "many", "group_id": "many"} for number in range(120)]
    operator.post("/api/rollouts", json={"rollouts": new}).raise_for_status()
    seen: list[str] = []
    cursor = ""
    while True:
        page = operator.get(f"/dashboard/rollouts?as=json&run=many{cursor}").json()
        seen += [rollout["id"] for rollout in page["rollouts"]]
        if page["next"] is None:
            break
        cursor = f"&before={page['next']}"
    assert seen == [f"many-{number}" for number in reversed(range(120))]


def test_a_filter_that_is_no_number_and_things_that_are_not_there_are_said(operator: httpx.Client) -> None:
    wrong = operator.get("/dashboard/rollouts?step=two")
    assert (wrong.status_code, "step is 'two'; expected a number" in wrong.text) == (400, True)
    for page in ("rollouts/none", "groups/none", "runs/none", "calls/none", "nowhere"):
        assert operator.get(f"/dashboard/{page}").status_code == 404
    page = operator.get("/dashboard/rollouts/none", headers={"Accept": "text/html"})
    assert "no rollout has the id &#39;none&#39;" in page.text


def test_a_rollout_is_shown_with_its_tree_credit_retries_and_rows(operator: httpx.Client) -> None:
    page = operator.get(f"/dashboard/rollouts/{GROUP}-r0").text
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    assert "0.5 above the mean 0.5 of the 5 rollouts of this task (gigpo, step 8)" in words
    assert "call 4 handed off by 3" in words
    assert "Attempt 0 error: the policy is busy" in words
    assert "2 messages and the answer of call 2 , then" in words
    assert re.findall(r'<li class="(\w+) \w* ?d(\d)"', page) == [
        ("agent", "0"),
        ("call", "1"),
        ("agent", "2"),
        ("call", "3"),
        ("tool", "4"),
        ("call", "3"),
        ("handoff", "4"),
        ("agent", "2"),
        ("call", "3"),
    ]
    assert 'title="token' in page
    assert ">SELECT </span>" in page  # a token as its text, by the run's tokenizer
    parts = operator.get(f"/dashboard/rollouts/{GROUP}-r0?as=json").json()
    assert set(parts) == {"rollout", "calls", "rewards", "credits", "rows"}
    assert [row["parts"][0]["number"] for row in parts["rows"]] == [1, 2, 3, 4]
    call = operator.get(f"/dashboard/calls/{GROUP}-r0-1").json()
    assert call == parts["calls"][0]


def test_a_call_names_its_node_where_its_agent_does_not() -> None:
    structures = [Structure(agent=("planner",), node=node) for node in ("draft", "planner", None)]
    calls = [
        Call(id=f"c{place}", rollout_id="r", started_at=place, captured_by=("adapter",), structure=structure)
        for place, structure in enumerate(structures)
    ]
    assert [row.label for row in time_rows(calls)] == ["planner", "call 1 at draft", "call 2", "call 3"]


def test_what_was_zero_throughout_is_said_rather_than_drawn(operator: httpx.Client) -> None:
    for page in ("runs/sql-team-2", "compare?run=sql-team&run=sql-team-2"):
        shown = operator.get(f"/dashboard/{page}", headers={"Accept": "text/html"}).text
        assert "0 throughout: Staleness.</p>" in shown
        assert "<h3>Clip rate</h3>" in shown
        assert "<h3>Staleness</h3>" not in shown


def test_an_incomplete_rollout_says_why_and_one_that_failed_what_it_raised(operator: httpx.Client) -> None:
    assert "its worker ended with signal 9" in operator.get(f"/dashboard/rollouts/{GROUP}-r5").text
    assert "agent_error: ValueError: no table named" in operator.get(f"/dashboard/rollouts/{GROUP}-r4").text


def test_best_and_worst_of_a_group_stand_side_by_side(operator: httpx.Client) -> None:
    group = operator.get(f"/dashboard/groups/{GROUP}?as=json").json()
    assert [member["return"] for member in group["members"]] == [1.0, 0.5, 1.0, 0.0, 0.0, None]
    sides = {name: whole["rollout"]["id"] for name, whole in group["sides"].items()}
    assert sides == {"best": f"{GROUP}-r0", "worst": f"{GROUP}-r4"}


def test_what_a_model_says_is_never_markup(operator: httpx.Client) -> None:
    evil = "<script>alert(1)</script>"
    rollout = {"id": "a/b?c <i>", "group_id": evil, "task": evil, "task_id": evil}
    operator.post("/api/rollouts", json={"rollouts": [rollout]}).raise_for_status()
    for page in ("rollouts/a%2Fb%3Fc%20%3Ci%3E", "rollouts", "groups/%3Cscript%3Ealert(1)%3C%2Fscript%3E"):
        shown = operator.get(f"/dashboard/{page}")
        assert shown.status_code == 200
        assert evil not in shown.text
        assert "&lt;script&gt;" in shown.text


def test_the_live_page_counts_what_waits_runs_and_has_ended(operator: httpx.Client) -> None:
    live = operator.get("/dashboard/live?as=json").json()
    assert [(runner["name"], runner["rollouts"]) for runner in live["runners"]] == [
        ("runner-ann", 1),
        ("runner-bob", 1),
    ]
    assert live["ended_in_10_minutes"] == {"succeeded": 12, "failed": 3, "incomplete": 3}
    assert live["endpoints"][0]["version"] == 8
    before = live["gateway"]["total"]
    operator.post("/v1/chat/completions", json={"model": "m", "messages": []})
    assert operator.get("/dashboard/live?as=json").json()["gateway"]["total"] == before  # refused, so not attempted


def test_configurations_are_compared_setting_by_setting() -> None:
    first: dict[str, Any] = {"seed": 1, "loss": {"kl": 0.0, "objective": "ppo"}, "old": True}
    second: dict[str, Any] = {"seed": 1, "loss": {"kl": 0.1, "objective": "ppo"}, "new": []}
    rows = differences([flattened(first), flattened(second)])
    assert rows == [("loss.kl", [0.0, 0.1]), ("new", [None, []]), ("old", [True, None])]


def test_a_curve_is_drawn_to_scale() -> None:
    chart = curve("Reward", [Series("r", [(0, 0.0), (2, 0.5), (4, 1.0)], band=[(0, 0.0, 0.25), (4, 0.75, 1.0)])])
    assert chart is not None
    # x: 4 steps on 1000; y: 0 is at 400, 1 at 0.
    assert 'class="line s0" d="M0 400 L500 200 L1000 0"' in chart.drawing
    assert 'class="band s0" d="M0 300 L1000 0 L1000 100 L0 400Z"' in chart.drawing
    assert chart.x_labels == ("0", "2", "4")
    assert chart.y_labels == ("1", "0.75", "0.5", "0.25", "0")
    assert curve("Nothing", [Series("r", [])]) is None


def test_bars_are_stacked_to_scale() -> None:
    chart = bars("Time", [1.0, 2.0], [("a", [2.0, 4.0]), ("b", [2.0, 0.0])])
    assert chart is not None
    heights = [float(height) for height in re.findall(r'height="([\d.]+)"', chart.drawing)]
    assert heights == [200.0, 200.0, 400.0, 0.0]  # of 4, which is 400 high


def test_tokens_are_coloured_by_their_calls_advantage_their_probability_and_the_mask() -> None:
    choice = Choice(message={}, token_ids=(5, 6), logprobs=(-0.01, -3.0))
    # exp(-0.01) = 0.99 > 0.9; exp(-3) = 0.05 < 0.1 but > 0.01. 0.5 of at most 1.0 is two of four shades.
    trained = shown_tokens(choice, None, advantage=-0.5, largest=1.0)
    assert [token.classes for token in trained] == ["n2 m1 l0", "n2 m1 l4"]
    assert trained[1].title == "token 6, log probability -3.000, advantage -0.500"
    untrained = shown_tokens(choice, str, advantage=None, largest=1.0)
    assert [(token.text, token.classes) for token in untrained] == [("5", "p0 m0 l0"), ("6", "p0 m0 l4")]
