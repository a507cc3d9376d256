"""A subclass cannot test less than the contract without saying so."""

import types
from typing import Any

import pytest

from leyden.testing.adapter_agents import AGENTS
from leyden.testing.adapter_contract import AdapterContract

TEST = "test_a_tool_use_lies_under_the_call_that_asked_for_it"


async def agent(self: object, task: str, url: str) -> None:
    """Stands for any agent: only the class is made here, nothing runs."""


def subclass(absent: dict[str, str] | None = None, **attributes: Any) -> type:
    agents = {name: agent for name in AGENTS if name not in (absent or {})}
    members = {"adapter": "some", "absent": absent or {}, **agents, **attributes}
    return types.new_class("TestSome", (AdapterContract,), {}, lambda namespace: namespace.update(members))


def test_a_subclass_that_writes_all_agents_has_all_tests() -> None:
    made = subclass()
    assert {name for name in dir(made) if name.startswith("test_")} >= {TEST}


@pytest.mark.parametrize("name", [TEST, "trial", "complete"])
def test_an_override_without_a_reason_is_refused_by_name(name: str) -> None:
    for value in (agent, None):
        with pytest.raises(TypeError, match=f"{name} is overridden"):
            subclass(**{name: value})


def test_an_override_behind_a_mixin_is_refused_too() -> None:
    mixin = type("Mixin", (), {TEST: agent})
    with pytest.raises(TypeError, match=f"{TEST} is overridden"):
        type("TestSome", (mixin, AdapterContract), {"adapter": "some", **dict.fromkeys(AGENTS, agent)})


def test_an_override_that_states_its_reason_is_shown_by_pytest() -> None:
    @pytest.mark.xfail(reason="the framework reuses tool call ids", strict=True)
    async def stated(self: object) -> None:
        raise AssertionError

    subclass(**{TEST: stated})
    with pytest.raises(TypeError, match=f"{TEST} is overridden"):
        subclass(**{TEST: pytest.mark.xfail(strict=True)(agent)})


def test_an_agent_is_written_or_declared_absent_with_a_reason() -> None:
    subclass({"handoff": "it has no handoffs"})
    for absent in ({"handoff": " "}, {"single": "it has no agents"}, {"walking": "it has no legs"}):
        with pytest.raises(TypeError, match=next(iter(absent))):
            subclass(absent)
    with pytest.raises(TypeError, match="nested is neither written nor declared absent"):
        type("TestSome", (AdapterContract,), {"adapter": "some", "single": agent})
    with pytest.raises(TypeError, match="handoff is declared absent"):
        subclass({"handoff": "it has no handoffs"}, handoff=agent)
