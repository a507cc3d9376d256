"""From a batch to what a step learns: values, credit, and rows with weights, old log probabilities and targets.

The only place where credit meets a backend: the backend scores, everything else here is pure.
"""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from leyden.errors import BadConfig, TrainingStopped
from leyden_trainer.config import TrainConfig
from leyden_trainer.credit import Advantage, CallValues, CreditMethod, Memory, assign, credit_method, valued, view
from leyden_trainer.experience import Member
from leyden_trainer.importance import ImportanceStats, mean_mismatch, mismatch, reweighted
from leyden_trainer.rows import RowScores, TrainingRow
from leyden_trainer.transitions import Transition
from leyden_trainer.weights import training_rows

__all__ = ["Assignment", "Scorer", "assigned", "call_values", "configured_method", "explained_variance", "has_signal"]


@dataclass(frozen=True)
class Assignment:
    """What one step learns. Figures are None where nothing was scored, or there is no critic."""

    rows: list[TrainingRow]
    advantages: dict[str, Advantage]
    """By call id; only of calls that are trained."""
    memory: Memory
    """Of the credit method, for the next step."""
    mismatch: float | None
    """Largest |log probability of sampler - of trainer| of a sampled token."""
    importance: ImportanceStats | None
    explained_variance: float | None


def configured_method(config: TrainConfig) -> CreditMethod:
    """The credit method that the configuration names, with its options and the agents that it trains.

    Raises:
        BadConfig: there is none, or it does not go with the rest.
    """
    method = credit_method(config.credit.method, options=config.credit.options, agents=config.credit.agents)
    if method.needs_critic and config.trainer.dynamic_sampling:
        raise BadConfig(
            f"trainer.dynamic_sampling leaves out groups of equal rewards, but credit.method = {method.name!r} learns "
            "from them too, by its critic; leave one of the two out"
        )
    if config.credit.replays and (method.name != "c3" or config.trainer.backend == "verl"):
        raise BadConfig(
            f"credit.replays = {config.credit.replays} is for credit.method = 'c3' on the local backend, got "
            f"{method.name!r} on {config.trainer.backend!r}; leave it out, or change these"
        )
    if method.remembers_rollouts and config.trainer.backend == "verl":
        raise BadConfig(
            f"credit.method = {method.name!r} remembers rollouts from step to step, and verl's record holds numbers "
            'alone; set trainer.backend = "local" or choose another method'
        )
    return method


class Scorer(Protocol):
    """The part of a backend that credit needs."""

    async def score(self, rows: Sequence[TrainingRow]) -> list[RowScores]:
        """See `Backend.score`."""
        ...


async def assigned(
    groups: Sequence[Sequence[Member]],
    config: TrainConfig,
    method: CreditMethod,
    memory: Memory,
    backend: Scorer,
    *,
    always_score: bool = False,
    version: int | None = None,
) -> Assignment:
    """Assign credit to a batch's groups and make the rows of the step.

    Args:
        groups: comparable members.
        config: the run's.
        method: the configuration's.
        memory: of the method, from the step before.
        backend: asked for scores where the configuration needs them.
        always_score: also where it does not, for a backend whose update does not compare sampler and trainer itself.
        version: of the weights before the step; tokens of others are not compared. None compares all.

    Raises:
        TrainingStopped: sampler and trainer disagree about a log probability by more than trainer.max_mismatch.
    """
    transitions = [t for group in groups for member in group for t in member.transitions]
    views = [[view(m.rollout, m.calls, m.rewards) for m in group] for group in groups]
    scores, worst = None, None
    values: dict[str, CallValues] = {}
    if transitions and (always_score or _needs_scores(config, method)):
        scores, worst = await _scored(transitions, config, backend, version)
    if scores is not None and method.needs_critic:
        values = call_values(transitions, scores)
        views = [[valued(rollout, values) for rollout in group] for group in views]
    advantages, memory = assign(method, views, memory)
    rows = training_rows(transitions, advantages, aggregate=config.loss.aggregate, values=values)
    importance = None
    if scores is not None and config.loss.old_logprobs == "trainer":
        pairs = zip(transitions, scores, strict=True)
        kept = [s.logprobs for t, s in pairs if any(span.call_id in advantages for span in t.spans)]
        rows, importance = reweighted(rows, kept, cap=config.loss.importance_cap)
    explained = explained_variance(rows) if method.needs_critic else None
    return Assignment(rows, advantages, memory, worst, importance, explained)


def has_signal(group: Sequence[Member], method: CreditMethod, memory: Memory) -> bool:
    """Whether the method gives any call of the group an advantage. A method with a critic always may."""
    if method.needs_critic:
        return True
    advantages, _ = assign(method, [[view(m.rollout, m.calls, m.rewards) for m in group]], memory)
    return any(advantage.value or any(advantage.tokens or ()) for advantage in advantages.values())


def call_values(transitions: Sequence[Transition], scores: Sequence[RowScores]) -> dict[str, CallValues]:
    """The critic's values by call id, those of several choices one after the other."""
    found: dict[str, list[tuple[int, tuple[float, ...], float | None]]] = defaultdict(list)
    for transition, score in zip(transitions, scores, strict=True):
        low, *high = score.values
        for span in transition.spans:
            first = high[0][span.start] if high else None
            found[span.call_id].append((span.choice, low[span.start : span.stop], first))
    return {
        call_id: CallValues(tuple(v for _, values, _ in sorted(choices) for v in values), min(choices)[2])
        for call_id, choices in found.items()
    }


def explained_variance(rows: Sequence[TrainingRow]) -> float | None:
    """1 - Var(target - value) / Var(target) over the targets of all heads; None if the targets do not vary."""
    targets = [target for row in rows for target in row.targets]
    if len({target.target for target in targets}) < 2:
        return None
    left = statistics.pvariance([target.target - target.value for target in targets])
    return 1 - left / statistics.pvariance([target.target for target in targets])


def _needs_scores(config: TrainConfig, method: CreditMethod) -> bool:
    """With several updates in a step only the first one could compare the sampler's log probabilities by itself."""
    several = config.trainer.minibatches * config.trainer.epochs > 1
    return method.needs_critic or config.loss.old_logprobs == "trainer" or several


async def _scored(
    transitions: Sequence[Transition], config: TrainConfig, backend: Scorer, version: int | None
) -> tuple[list[RowScores], float]:
    """Every sampled token, of agents that are not trained too: their values say what the others' calls were worth."""
    everyone = {span.call_id: Advantage(0.0, "") for transition in transitions for span in transition.spans}
    rows = training_rows(transitions, everyone)
    scores = await backend.score(rows)
    same = rows if version is None else [_of_version(*pair, version) for pair in zip(rows, transitions, strict=True)]
    worst, rollout_id = mismatch(same, [score.logprobs for score in scores])
    if worst > config.trainer.max_mismatch:
        raise TrainingStopped(
            f"sampler and trainer disagree by {worst:.3g} about the log probability of a token of rollout "
            f"{rollout_id}, more than trainer.max_mismatch = {config.trainer.max_mismatch}; if the sampler runs other "
            'kernels, raise it and set loss.old_logprobs = "trainer" with an importance_cap'
        )
    most = config.trainer.max_mean_mismatch
    if most is not None and (mean := mean_mismatch(same, [score.logprobs for score in scores])) > most:
        raise TrainingStopped(
            f"sampler and trainer disagree by {mean:.3g} on average about the log probabilities of a step, more than "
            f"trainer.max_mean_mismatch = {most}; see whether they have the same weights, temperature and top_p"
        )
    return scores, worst


def _of_version(row: TrainingRow, transition: Transition, version: int) -> TrainingRow:
    """The row with only those tokens trained that these weights sampled."""
    pairs = zip(row.mask, transition.versions, strict=True)
    return dataclasses.replace(row, mask=tuple(kept and known == version for kept, known in pairs))
