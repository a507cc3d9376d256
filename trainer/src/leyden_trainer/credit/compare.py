"""A comparison: numbers of one set against each other, with the reason in words."""

import statistics
from collections.abc import Sequence
from typing import Literal

from leyden_trainer.credit.group import Advantage

__all__ = ["EPSILON", "Baseline", "Scale", "compare", "said"]

EPSILON = 1e-4
"""Added to a standard deviation that is divided by."""

Baseline = Literal["mean", "leave_one_out"]
Scale = Literal["std", "none"]


def compare(
    returns: Sequence[float], whom: str, *, baseline: Baseline = "mean", scale: Scale = "std", epsilon: float = EPSILON
) -> list[Advantage]:
    """One advantage per member of the set. A set of one, or of equals, has advantage 0.

    Args:
        returns: of the set's members, shape (G,).
        whom: what they are, for the reason: "rollouts of this task".
        baseline: the mean of all, or for each member that of the others.
        scale: `std` divides by the sample standard deviation (n - 1) plus `epsilon`.
        epsilon: only for `std`.
    """
    if len(returns) < 2:
        return [Advantage(0.0, f"alone among the {whom}: nothing to compare with") for _ in returns]
    if min(returns) == max(returns):
        return [Advantage(0.0, f"all {len(returns)} {whom} got {value:.3g}") for value in returns]
    divisor = statistics.stdev(returns) + epsilon if scale == "std" else 1.0
    mean = statistics.fmean(returns)
    compared: list[Advantage] = []
    for value in returns:
        others = baseline == "leave_one_out"
        # n / (n - 1) · (value - mean) is value minus the mean of the others, and exact for equal values
        above = (value - mean) * len(returns) / (len(returns) - 1) if others else value - mean
        number = f"{len(returns) - 1} other" if others else str(len(returns))
        compared.append(Advantage(above / divisor, said(above, f"the mean {value - above:.3g} of the {number} {whom}")))
    return compared


def said(above: float, what: str) -> str:
    """ "0.5 above WHAT"."""
    return f"{abs(above):.3g} {'above' if above >= 0 else 'below'} {what}"
