"""Credit: from a group of rollouts to one advantage per call. Pure; no torch, no input or output."""

from leyden_trainer.credit.group import Advantage, CallView, Group, RolloutView, view
from leyden_trainer.credit.methods import METHODS, CreditMethod, assign, credit_method

__all__ = [
    "METHODS",
    "Advantage",
    "CallView",
    "CreditMethod",
    "Group",
    "RolloutView",
    "assign",
    "credit_method",
    "view",
]
