"""Credit methods by name. Adding one is a line here, or a function from a group to advantages and a line here."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from leyden.errors import BadConfig
from leyden_trainer.credit.choices import Choices, assign_by
from leyden_trainer.credit.group import Advantage, Group

__all__ = ["METHODS", "CreditMethod", "assign", "credit_method"]

Rule = Callable[[Group], dict[str, Advantage]]

METHODS: dict[str, Rule] = {
    # LightningRL (arXiv:2508.03680): every call gets its rollout's return, compared within the task's group.
    "broadcast": partial(assign_by, Choices()),
    # GRPO (arXiv:2402.03300); for a rollout of several calls it is the same as broadcast.
    "grpo": partial(assign_by, Choices()),
    # Dr. GRPO (arXiv:2503.20783): without the division by the standard deviation.
    "dr_grpo": partial(assign_by, Choices(scale="none")),
    # RLOO (arXiv:2402.14740): the baseline is the mean of the others.
    "rloo": partial(assign_by, Choices(baseline="leave_one_out", scale="none")),
    # Dr. MAS: each agent's calls are normalised among themselves, over all calls of that agent in the task's group.
    "per_agent": partial(assign_by, Choices(compare="agent")),
    # Discounted return-to-go over the rollout's calls, and over those of each agent.
    "to_go": partial(assign_by, Choices(returns="to_go", gamma=0.95)),
    "agent_to_go": partial(assign_by, Choices(returns="agent_to_go", gamma=0.95, compare="agent")),
}


@dataclass(frozen=True)
class CreditMethod:
    """A rule and whom it trains: `agents` are names or paths ("writer", "planner/writer"); empty means all."""

    name: str
    rule: Rule
    agents: tuple[str, ...] = ()

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
        return CreditMethod(name, getattr(importlib.import_module(module), function), tuple(agents))
    except (ImportError, AttributeError) as error:
        raise BadConfig(f"credit.method = {name!r} cannot be loaded: {error}") from error


def assign(method: CreditMethod, group: Group) -> dict[str, Advantage]:
    """The advantages of the calls that are trained; calls of other agents are not in it, their tokens are context."""
    agents = {call.id: call.agent for rollout in group for call in rollout.calls}
    return {call_id: a for call_id, a in method.rule(group).items() if method.trains(agents[call_id])}
