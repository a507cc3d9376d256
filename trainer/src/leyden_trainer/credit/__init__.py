"""Credit: from a group of rollouts to one advantage per call. Pure; no torch, no input or output."""

from leyden_trainer.credit.group import Advantage, CallValues, CallView, Group, RolloutView, valued
from leyden_trainer.credit.methods import METHODS, CreditMethod, Memory, assign, credit_method
from leyden_trainer.credit.view import view, view_agent

__all__ = [
    "METHODS",
    "Advantage",
    "CallValues",
    "CallView",
    "CreditMethod",
    "Group",
    "Memory",
    "RolloutView",
    "assign",
    "credit_method",
    "valued",
    "view",
    "view_agent",
]
