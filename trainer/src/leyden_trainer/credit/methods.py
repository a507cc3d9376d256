"""Credit methods by name. Adding one is a function, its options, and a line in `METHODS`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import JsonValue, ValidationError

from leyden.errors import BadConfig, BadInput
from leyden.runner.reference import load_function
from leyden_trainer.credit import options as o
from leyden_trainer.credit.anchor_td import anchor_td
from leyden_trainer.credit.anchors import c3, gigpo
from leyden_trainer.credit.critic import Horizon, hae, token_gae, turn_ppo
from leyden_trainer.credit.group import Advantage, Group
from leyden_trainer.credit.regression import group_regression
from leyden_trainer.credit.relative import dr_mas, mt_grpo, per_rollout, rae, reinforce_plus_plus, return_to_go
from leyden_trainer.credit.task_regression import task_regression

__all__ = ["METHODS", "CreditMethod", "Memory", "assign", "credit_method"]

Memory = Mapping[str, Any]
"""What a method carries from step to step, as JSON has it; most carry nothing."""

Advantages = dict[str, Advantage]

Rule = Callable[[Sequence[Group], Memory], tuple[Advantages, Memory]]
"""From the groups of one optimiser step, and the memory of the step before, to advantages by call id, and memory."""


@dataclass(frozen=True)
class CreditMethod:
    """A rule and whom it trains: `agents` are names or paths ("writer", "planner/writer"); empty means all."""

    name: str
    rule: Rule
    agents: tuple[str, ...] = ()
    heads: Literal[0, 1, 2] = 0
    """How many heads of a critic it reads: 1: `CallView.values`; 2: `CallView.high_value` too."""
    remembers_rollouts: bool = False
    """Whether its memory holds more than numbers."""

    @property
    def needs_critic(self) -> bool:
        """Whether every call must come with a critic's values (`valued`)."""
        return self.heads > 0

    def trains(self, agent: str) -> bool:
        """Whether calls of the agent with this path are learnt from."""
        return not self.agents or agent in self.agents or agent.rpartition("/")[2] in self.agents


@dataclass(frozen=True)
class Entry:
    """A line of the table: the parameters that a method has, and the rule that they make."""

    make: Callable[[Any], Rule]
    options: type[o.Options] = o.NoOptions
    heads: Literal[0, 1, 2] = field(default=0, kw_only=True)
    remembers_rollouts: bool = field(default=False, kw_only=True)


def _each(rule: Callable[[Group], Advantages]) -> Rule:
    """A rule that looks at one group at a time and remembers nothing; a group of one has advantage 0."""

    def each(groups: Sequence[Group], memory: Memory) -> tuple[Advantages, Memory]:
        found: Advantages = {}
        for group in groups:
            found |= rule(group) if len(group) > 1 else _alone(group)
        return found, memory

    return each


def _step(rule: Callable[[Sequence[Group]], Advantages]) -> Rule:
    """A rule that looks at the whole step and remembers nothing."""
    return lambda groups, memory: (rule(groups), memory)


def _alone(group: Group) -> Advantages:
    alone = Advantage(0.0, "alone among the rollouts of this task: nothing to compare with")
    return {call.id: alone for rollout in group for call in rollout.calls}


def _multi_level(p: o.MultiLevelGae) -> Rule:
    token, call = Horizon(p.gamma, p.lam), Horizon(p.gamma_call, p.lam_call)
    segment = Horizon(p.gamma_segment, p.lam_segment)
    return _step(lambda groups: token_gae(groups, token=token, call=call, segment=segment, normalize=p.normalize))


def _ppo(p: o.Ppo) -> Rule:
    flat = Horizon(p.gamma, p.lam)
    return _step(lambda groups: token_gae(groups, token=flat, call=flat, segment=flat, normalize=p.normalize))


METHODS: dict[str, Entry] = {
    # LightningRL (arXiv:2508.03680): every call gets its rollout's return, compared within the task's group.
    "broadcast": Entry(lambda p: _each(per_rollout)),
    # GRPO (arXiv:2402.03300); for a rollout of several calls it is the same as broadcast.
    "grpo": Entry(lambda p: _each(per_rollout)),
    # Dr. GRPO (arXiv:2503.20783): without the division by the standard deviation.
    "dr_grpo": Entry(lambda p: _each(lambda group: per_rollout(group, scale="none"))),
    # RLOO (arXiv:2402.14740): the baseline is the mean of the others.
    "rloo": Entry(lambda p: _each(lambda group: per_rollout(group, scale="none", baseline="leave_one_out"))),
    "reinforce_plus_plus": Entry(lambda p: _step(reinforce_plus_plus)),
    "dr_mas": Entry(lambda p: _each(dr_mas)),
    "rae": Entry(lambda p: lambda groups, memory: rae(groups, memory, decay=p.decay), o.Rae),
    "return_to_go": Entry(lambda p: _each(lambda group: return_to_go(group, gamma=p.gamma)), o.ReturnToGo),
    "agent_return_to_go": Entry(
        lambda p: _each(lambda group: return_to_go(group, gamma=p.gamma, per_agent=True)), o.ReturnToGo
    ),
    "mt_grpo": Entry(lambda p: _each(lambda group: mt_grpo(group, weight=p.weight)), o.MtGrpo),
    "gigpo": Entry(lambda p: _each(lambda group: gigpo(group, **p.model_dump())), o.Gigpo),
    "c3": Entry(lambda p: _each(c3)),
    "group_regression": Entry(
        lambda p: _each(lambda group: group_regression(group, **p.model_dump())), o.GroupRegression
    ),
    "anchor_td": Entry(lambda p: lambda groups, memory: anchor_td(groups, memory, **p.model_dump()), o.AnchorTd),
    "task_regression": Entry(
        lambda p: lambda groups, memory: task_regression(groups, memory, **p.model_dump()),
        o.TaskRegression,
        remembers_rollouts=True,
    ),
    "ppo": Entry(_ppo, o.Ppo, heads=1),
    "multi_level_gae": Entry(_multi_level, o.MultiLevelGae, heads=1),
    "turn_ppo": Entry(lambda p: _step(lambda groups: turn_ppo(groups, **p.model_dump())), o.TurnPpo, heads=1),
    "hae": Entry(lambda p: _step(lambda groups: hae(groups, **p.model_dump())), o.Hae, heads=2),
}


def credit_method(
    name: str, *, options: Mapping[str, JsonValue] | None = None, agents: Sequence[str] = ()
) -> CreditMethod:
    """The method of this name, or a user's own function from a group to {call id: Advantage}.

    Args:
        name: a key of `METHODS`, or `module:function`, or `path/to/file.py:function`.
        options: the method's parameters; a user's own function gets them as keyword arguments.
        agents: whom to train; empty: all.

    Raises:
        BadConfig: there is none, or a parameter is unknown or out of range.
    """
    if name in METHODS:
        entry = METHODS[name]
        parameters = _parameters(name, entry.options, options or {})
        return CreditMethod(name, entry.make(parameters), tuple(agents), entry.heads, entry.remembers_rollouts)
    if ":" not in name:
        raise BadConfig(f"credit.method = {name!r} is unknown; choose {', '.join(METHODS)}, or give module:function")
    function = load_function(name)
    return CreditMethod(
        name, _each(lambda group: _checked(name, function(group, **(options or {})), group)), tuple(agents)
    )


def _checked(name: str, found: Any, group: Group) -> Advantages:
    """What a user's own function gave; calls that it leaves out are not trained.

    Raises:
        BadInput: it cannot be trained on.
    """
    if not isinstance(found, Mapping):
        raise BadInput(f"the credit function {name} returned {found!r:.80}; expected {{call id: Advantage}}")
    calls = {call.id: call for rollout in group for call in rollout.calls}
    checked: Advantages = {}
    for call_id, advantage in found.items():  # pyright: ignore[reportUnknownVariableType]
        where = f"the credit function {name} gave the call {call_id!r}"
        if call_id not in calls:
            raise BadInput(f"{where} an advantage, but it is none of the {len(calls)} calls of its group; use call.id")
        if not isinstance(advantage, Advantage):
            raise BadInput(f"{where} {advantage!r:.80}; expected an Advantage(value, reason)")
        if not all(math.isfinite(value) for value in (advantage.value, *(advantage.tokens or ()))):
            raise BadInput(f"{where} an advantage that is not finite: {advantage.value}; expected a finite number")
        expected = calls[call_id].num_tokens
        if advantage.tokens is not None and len(advantage.tokens) != expected:
            raise BadInput(f"{where} {len(advantage.tokens)} advantages, expected one per sampled token: {expected}")
        checked[call_id] = advantage
    return checked


def _parameters(name: str, kind: type[o.Options], given: Mapping[str, JsonValue]) -> o.Options:
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        known = ", ".join(kind.model_fields) or "none"
        raise BadConfig(
            f"credit.options.{key} = {given.get(key)!r} for the method {name}: {problem['msg']}; its options: {known}"
        ) from error


def assign(method: CreditMethod, groups: Sequence[Group], memory: Memory | None = None) -> tuple[Advantages, Memory]:
    """The advantages of the calls of one step that are trained, by call id, and what to hand in at the next step.

    Calls of agents that are not trained are not in it: their tokens are context.

    Raises:
        BadInput: the method needs a critic's values and a call has none.
    """
    agents = {call.id: call.agent for group in groups for rollout in group for call in rollout.calls}
    advantages, kept = method.rule(groups, memory or {})
    return {call_id: a for call_id, a in advantages.items() if method.trains(agents[call_id])}, kept
