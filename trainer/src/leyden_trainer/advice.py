"""What is wrong with a step, in words that say what to do. Pure: from a step's figures and rollouts to lines.

Figures go by their names in `metrics.jsonl`, which every backend writes; one that a backend lacks is not judged.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from leyden_trainer.config import TrainerConfig
from leyden_trainer.experience import Batch, Member
from leyden_trainer.judge import JudgeCost

__all__ = ["Advisor", "notes"]

Figures = Mapping[str, float]

COLLAPSED = 0.1
"""Entropy is called low below this share of the highest so far."""
NEAR = 0.5
"""A limit is called near from this share of it on."""
CLIPPED = 0.3
HALF = 0.5


@dataclass
class Advisor:
    """Looks at the steps of one run, in order; what it saw before tells what is unusual."""

    trainer: TrainerConfig
    highest_entropy: float = 0.0
    told_of_entropy: bool = False

    def warnings(self, figures: Figures, batch: Batch) -> list[str]:
        """What asks for attention; nothing, if all is as it should be."""
        found = [self._silence(batch), self._incomplete(batch), _failures(batch), self._mismatch(figures)]
        found += [self._entropy(figures), _clipping(figures)]
        return [line for line in found if line]

    def _silence(self, batch: Batch) -> str:
        count = len(batch.groups)
        if not count or batch.silent < HALF * count:
            return ""
        same = Counter(group[0].total for group in batch.groups if len({member.total for member in group}) == 1)
        rewards = ", ".join(f"{groups} x {total:.3g}" for total, groups in same.most_common(3))
        what = f"no signal in {batch.silent} of {count} groups: all rollouts of a task got the same reward ({rewards})"
        end = "nothing was learnt" if batch.silent == count else "little was learnt"
        dynamic = "" if self.trainer.dynamic_sampling else ", or set trainer.dynamic_sampling"
        return f"{what}, so {end}; raise sampling.temperature, choose tasks that sometimes succeed{dynamic}"

    def _incomplete(self, batch: Batch) -> str:
        if not batch.num_incomplete:
            return ""
        share = batch.num_incomplete / len(batch.members)
        reasons = "; ".join(f"{count} x {reason}" for reason, count in batch.incomplete_reasons.most_common(3))
        one = next(member.rollout.id for member in batch.members if member.incomplete)
        limit = self.trainer.max_incomplete
        near = f" (training stops above {limit:.0%}, trainer.max_incomplete)" if share > NEAR * limit else ""
        return (
            f"{share:.0%} of rollouts, {batch.num_incomplete} of {len(batch.members)}, are incomplete and not trained "
            f"on{near}: {reasons}; look at `leyden show {one}`"
        )

    def _mismatch(self, figures: Figures) -> str:
        limit, mismatch = self.trainer.max_mismatch, figures.get("mismatch", 0.0)
        if mismatch <= NEAR * limit:
            return ""
        return (
            f"mismatch {mismatch:.1e} is near trainer.max_mismatch = {limit:g}, above which training stops: "
            "sampler and trainer differ in precision or kernels; "
            'set loss.old_logprobs = "trainer" with loss.importance_cap = 2'
        )

    def _entropy(self, figures: Figures) -> str:
        if "entropy" not in figures or not figures["tokens"]:
            return ""
        entropy = figures["entropy"]
        self.highest_entropy = max(self.highest_entropy, entropy)
        low = entropy < COLLAPSED * self.highest_entropy
        if not low or self.told_of_entropy:
            return ""
        self.told_of_entropy = True
        return (
            f"entropy is down to {entropy:.3f} from {self.highest_entropy:.3f}: answers hardly vary any more. "
            "If the reward is not yet where it should be, lower optimizer.learning_rate, "
            "or set loss.clip_high = 0.28 or loss.entropy = 0.01"
        )


def notes(batch: Batch) -> list[str]:
    """What happened to the rollouts of a step that is as it should be, and good to know."""
    cost, total = batch.judge, len(batch.members)
    found = {
        f"judge: {cost.prompt_tokens} + {cost.completion_tokens} tokens in {cost.requests} requests, "
        f"{cost.cached} answers from the cache": cost != JudgeCost(),
        f"{batch.replaced_silent} groups were replaced: their rollouts all did equally well": batch.replaced_silent,
        f"{batch.num_failed} of {total} rollouts failed: their reward is reward.on_failure": batch.num_failed,
        f"{batch.replaced} groups were replaced: fewer than two of their rollouts were complete": batch.replaced,
    }
    return [line for line, told in found.items() if told]


def _failures(batch: Batch) -> str:
    failed = [member for member in batch.members if member.rollout.status == "failed"]
    if not failed or len(failed) < HALF * len(batch.members):
        return ""
    (reason, count), *_ = Counter(_why(member) for member in failed).most_common(1)
    return (
        f"{len(failed)} of {len(batch.members)} rollouts failed, and got reward.on_failure: {count} x {reason}; look "
        f"at `leyden show {failed[0].rollout.id}`"
    )


def _why(member: Member) -> str:
    failure = member.rollout.failure
    return f"{failure.kind}: {failure.message}" if failure else "no reason was recorded"


def _clipping(figures: Figures) -> str:
    clipped = figures.get("clip_fraction", 0.0)
    if clipped <= CLIPPED:
        return ""
    return (
        f"{clipped:.0%} of tokens were clipped: the steps are too large; lower optimizer.learning_rate, "
        "trainer.minibatches or trainer.epochs"
    )
