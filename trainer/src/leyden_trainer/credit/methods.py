"""Credit methods by name. Adding one is a line here, or a function from a group to advantages and a line here."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from leyden.errors import BadConfig
from leyden_trainer.credit.choices import Choices, assign_by
from leyden_trainer.credit.group import Advantage, Group

__all__ = ["METHODS", "CreditMethod", "Memory", "assign", "credit_method"]

Memory = Mapping[str, float]
"""What a method carries from step to step, as JSON has it; most carry nothing."""

Rule = Callable[[Sequence[Group], Memory], tuple[dict[str, Advantage], Memory]]
"""From the groups of one optimiser step, and the memory of the step before, to advantages by call id, and memory."""


def _each(rule: Callable[[Group], dict[str, Advantage]]) -> Rule:
    """A rule that looks at one group at a time, and remembers nothing."""
    return lambda groups, memory: ({k: a for group in groups for k, a in rule(group).items()}, memory)


METHODS: dict[str, Rule] = {
    # LightningRL (arXiv:2508.03680): every call gets its rollout's return, compared within the task's group.
    "broadcast": _each(partial(assign_by, Choices())),
    # GRPO (arXiv:2402.03300); for a rollout of several calls it is the same as broadcast.
    "grpo": _each(partial(assign_by, Choices())),
    # Dr. GRPO (arXiv:2503.20783): without the division by the standard deviation.
    "dr_grpo": _each(partial(assign_by, Choices(scale="none"))),
    # RLOO (arXiv:2402.14740): the baseline is the mean of the others.
    "rloo": _each(partial(assign_by, Choices(baseline="leave_one_out", scale="none"))),
    # Dr. MAS: each agent's calls are normalised among themselves, over all calls of that agent in the task's group.
    "per_agent": _each(partial(assign_by, Choices(compare="agent"))),
    # Discounted return-to-go over the rollout's calls, and over those of each agent.
    "to_go": _each(partial(assign_by, Choices(returns="to_go", gamma=0.95))),
    "agent_to_go": _each(partial(assign_by, Choices(returns="agent_to_go", gamma=0.95, compare="agent"))),
}


@dataclass(frozen=True)
class CreditMethod:
    """A rule and whom it trains: `agents` are names or paths ("writer", "planner/writer"); empty means all."""

    name: str
    rule: Rule
    agents: tuple[str, ...] = ()
    heads: Literal[0, 1, 2] = 0
    """How many heads of a critic it reads: 1: `CallView.values`; 2: `CallView.high_value` too."""

    @property
    def needs_critic(self) -> bool:
        """Whether every call must come with a critic's values (`valued`)."""
        return self.heads > 0

    def trains(self, agent: str) -> bool:
        """Whether calls of the agent with this path are learnt from."""
        return not self.agents or agent in self.agents or agent.rpartition("/")[2] in self.agents


def credit_method(name: str, *, agents: Sequence[str] = ()) -> CreditMethod:
    """The method of this name, or a user's own function `module:function` from a group to {call id: Advantage}.

    Raises:
        BadConfig: there is none.
    """
    if name in METHODS:
        return CreditMethod(name, METHODS[name], tuple(agents))
    module, colon, function = name.partition(":")
    if not colon:
        raise BadConfig(f"credit.method = {name!r} is unknown; choose {', '.join(METHODS)}, or give module:function")
    try:
        return CreditMethod(name, _each(getattr(importlib.import_module(module), function)), tuple(agents))
    except (ImportError, AttributeError) as error:
        raise BadConfig(f"credit.method = {name!r} cannot be loaded: {error}") from error


def assign(
    method: CreditMethod, groups: Sequence[Group], memory: Memory | None = None
) -> tuple[dict[str, Advantage], Memory]:
    """The advantages of the calls of one step that are trained, by call id, and what to hand in at the next step.

    Calls of agents that are not trained are not in it: their tokens are context.

    Raises:
        BadInput: the method needs a critic's values and a call has none.
    """
    agents = {call.id: call.agent for group in groups for rollout in group for call in rollout.calls}
    advantages, kept = method.rule(groups, memory or {})
    return {call_id: a for call_id, a in advantages.items() if method.trains(agents[call_id])}, kept
