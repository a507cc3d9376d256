"""Rewards that declared rules give to calls for what was captured of them: a tool failed, an answer was cut, ...

LightningRL's automatic intermediate rewards (arXiv:2508.03680), written to the store like any other reward. Applied by
the trainer, before credit: a finished rollout has both sides of every call, and the rules stand in the trainer's file.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from leyden.errors import BadReward
from leyden.runner.grading import called
from leyden.runner.reference import load_function
from leyden.types import Call, Failure, Reward, Rollout, reward_value
from leyden_trainer.config import RuleConfig

__all__ = ["EVENTS", "Rule", "load_rules", "rule_rewards"]


def _tools(call: Call, *, failed: bool) -> int:
    return sum((use.error is not None) is failed for use in call.tools if use.kind == "function")


def _cut(call: Call) -> bool:
    return call.answer is not None and any(choice.finish_reason == "length" for choice in call.answer.choices)


EVENTS: dict[str, Callable[[Call], float | None]] = {
    # Every call: what a step costs.
    "call": lambda call: 1,
    # Tools that the call asked for and that ran, or raised; as many as there were.
    "tool_ok": lambda call: _tools(call, failed=False) or None,
    "tool_error": lambda call: _tools(call, failed=True) or None,
    # The framework raised over an answer that the model gave: it could not be parsed.
    "parse_failure": lambda call: 1 if call.structure and call.structure.outcome == "raised" else None,
    # The answer ended because it was long enough.
    "length_stop": lambda call: 1 if _cut(call) else None,
}
"""How often a built-in event happened in a call; None: it did not."""


@dataclass(frozen=True)
class Rule:
    """`happened` is asked of each answered call of `agents` (empty: all); its number times `weight` is the reward."""

    name: str
    happened: Callable[[Call], Any]
    weight: float
    agents: tuple[str, ...] = ()

    def watches(self, call: Call) -> bool:
        """Whether the rule is about calls like this one."""
        path = "/".join(call.structure.agent) if call.structure else ""
        known = not self.agents or path in self.agents or path.rpartition("/")[2] in self.agents
        return known and call.answer is not None and not call.context


def load_rules(rules: dict[str, RuleConfig]) -> tuple[Rule, ...]:
    """The declared rules with their functions.

    Raises:
        BadConfig: a function cannot be loaded.
    """
    return tuple(
        Rule(
            name=name,
            happened=load_function(rule.function) if rule.function else EVENTS[rule.event or name],
            weight=rule.weight,
            agents=rule.agents,
        )
        for name, rule in rules.items()
    )


async def rule_rewards(rules: Sequence[Rule], rollout: Rollout, calls: Sequence[Call]) -> list[Reward] | Failure:
    """What the rules give to the calls of a rollout, or why a rule could not say. The same ids at every time."""
    given: list[Reward] = []
    for rule in rules:
        for call in filter(rule.watches, calls):
            count = await called(f"the rule {rule.name}", rule.happened, call)
            if isinstance(count, Failure):
                return count
            if count is None:
                continue
            try:
                value = rule.weight * reward_value(count)
            except BadReward as error:
                return Failure(kind="reward_error", message=f"the rule {rule.name} on call {call.id}: {error}")
            given.append(_reward(rule, rollout, call, value))
    return given


def _reward(rule: Rule, rollout: Rollout, call: Call, value: float) -> Reward:
    key = f"rule {rollout.id} {rollout.attempt} {call.id} {rule.name}"
    return Reward(
        id=hashlib.sha256(key.encode()).hexdigest()[:32],
        rollout_id=rollout.id,
        attempt=rollout.attempt,
        value=value,
        name=rule.name,
        source="rule",
        call_id=call.id,
    )
