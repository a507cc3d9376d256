"""What an evaluation says of a policy: mean reward, pass@k with an interval, and whether another policy is better.

Tasks are the sample, not rollouts: tries of one task are not independent of each other.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np
from scipy import stats

from leyden.errors import BadInput

__all__ = ["Comparison", "Evaluation", "Interval", "Tries", "compare", "pass_at_k", "wilson"]

_RESAMPLES = 99_999


@dataclass(frozen=True)
class Tries:
    """How each task is tried."""

    count: int = 1
    temperature: float = 0.0
    success_at: float = 1.0
    """A reward of at least this is a success."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval of 95 %, within [0, 1]."""

    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """The rewards of one policy: for each task those of its tries; None is a rollout that was incomplete."""

    name: str
    rewards: tuple[tuple[float | None, ...], ...]
    success_at: float
    """A reward of at least this is a success."""
    failed: int = 0
    """Rollouts whose agent failed; they have a reward all the same."""

    @property
    def num_tries(self) -> int:
        return len(self.rewards[0])

    @property
    def incomplete(self) -> int:
        return sum(reward is None for tries in self.rewards for reward in tries)

    @property
    def task_means(self) -> list[float]:
        """Of each task. An incomplete rollout counts 0: to leave it out would flatter the policy."""
        return [fmean(reward or 0.0 for reward in tries) for tries in self.rewards]

    @property
    def successes(self) -> list[int]:
        """Of each task: how many tries succeeded."""
        return [sum(reward is not None and reward >= self.success_at for reward in tries) for tries in self.rewards]

    @property
    def mean_reward(self) -> float:
        return fmean(self.task_means)

    def passing(self, k: int) -> tuple[float, Interval]:
        """pass@k over the tasks, and its interval."""
        chance = fmean(pass_at_k(self.num_tries, count, k) for count in self.successes)
        return chance, wilson(chance, len(self.rewards))


@dataclass(frozen=True)
class Comparison:
    """One policy against another on the same tasks."""

    gain: float
    """Difference of the mean rewards, the second less the first."""
    better: int
    """Tasks on which the second did better, by the mean of their tries."""
    worse: int
    p_value: float
    """Two-sided, of the hypothesis that neither is better."""
    test: str


def pass_at_k(tries: int, successes: int, k: int) -> float:
    """The chance that at least one of k tries succeeds, estimated without bias from `tries` (arXiv:2107.03374, eq. 1).

    Raises:
        BadInput: k is not from 1 to `tries`.
    """
    if not 1 <= k <= tries:
        raise BadInput(f"pass@{k} needs k from 1 to the number of tries, {tries}")
    return 1.0 - math.comb(tries - successes, k) / math.comb(tries, k)


def wilson(share: float, count: int) -> Interval:
    """Wilson's score interval (1927) of a mean of `count` independent values within [0, 1].

    Exact in form for values 0 and 1; for others it is too wide, never too narrow, as their variance is smaller.
    """
    z = NormalDist().inv_cdf(0.975)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def compare(first: Evaluation, second: Evaluation, *, seed: int = 0) -> Comparison:
    """A paired test over tasks: McNemar's exact one where each task's difference is one step, else sign flips.

    Raises:
        BadInput: they were not evaluated on the same number of tasks.
    """
    if len(first.rewards) != len(second.rewards):
        raise BadInput(f"{first.name} has {len(first.rewards)} tasks, {second.name} {len(second.rewards)}; pair them")
    differences = [b - a for a, b in zip(first.task_means, second.task_means, strict=True)]
    moved = np.array([difference for difference in differences if difference])  # ties carry no sign
    p_value, test = _paired_test(moved, seed)
    return Comparison(fmean(differences), int((moved > 0).sum()), int((moved < 0).sum()), p_value, test)


def _paired_test(moved: "np.ndarray[tuple[int], np.dtype[np.float64]]", seed: int) -> tuple[float, str]:
    if not len(moved):
        return 1.0, "no task differs"
    if np.allclose(np.abs(moved), abs(moved[0])):
        return float(stats.binomtest(int((moved > 0).sum()), len(moved)).pvalue), "McNemar, exact"
    if len(moved) == 1:  # one sign can be flipped in two ways
        return 1.0, "sign flips, exact"
    flips = stats.permutation_test(
        (moved,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=seed, vectorized=True
    )
    exact = 2 ** len(moved) <= _RESAMPLES
    return float(flips.pvalue), "sign flips, exact" if exact else f"sign flips, {_RESAMPLES} drawn"
