"""Rewards that the trainer itself adds to finished rollouts before credit: by declared rules, and by a judge.

They are written to the store first; a resumed run finds them there, and the first ones stay.
"""

import asyncio
import dataclasses
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from leyden.store.protocol import Store
from leyden.types import Failure, Reward
from leyden_trainer.experience import Member
from leyden_trainer.judge import Judge, JudgeCost, JudgeFailed
from leyden_trainer.rules import Rule, rule_rewards

__all__ = ["Rewarding"]


@dataclass(frozen=True)
class Rewarding:
    """What to add. Without rules and judge it changes nothing."""

    store: Store
    rules: tuple[Rule, ...] = ()
    judge: Judge | None = None

    async def __call__(self, members: Sequence[Member]) -> tuple[list[Member], JudgeCost]:
        """The members of whole groups with their new rewards. Who cannot be rewarded is incomplete, with the reason."""
        added = [await self._by_rules(member) for member in members]
        cost = JudgeCost()
        if self.judge is not None:
            added, cost = await self._by_judge(self.judge, added)
        before = {reward.id for member in members for reward in member.rewards}
        new = [reward for member in added for reward in member.rewards if reward.id not in before]
        if new:
            await self.store.reward(new)
        return added, cost

    async def _by_rules(self, member: Member) -> Member:
        if member.incomplete or not self.rules:
            return member
        given = await rule_rewards(self.rules, member.rollout, member.calls)
        return _lost(member, given.message) if isinstance(given, Failure) else _with(member, given)

    async def _by_judge(self, judge: Judge, members: Sequence[Member]) -> tuple[list[Member], JudgeCost]:
        groups: dict[str, list[Member]] = defaultdict(list)
        for member in members:
            if not member.incomplete:
                groups[member.rollout.group_id].append(member)
        judged = await asyncio.gather(*(_judged(judge, group) for group in groups.values()))
        found = {member.rollout.id: member for group, _ in judged for member in group}
        cost = sum((cost for _, cost in judged), JudgeCost())
        return [found.get(member.rollout.id, member) for member in members], cost


async def _judged(judge: Judge, group: Sequence[Member]) -> tuple[list[Member], JudgeCost]:
    ids = [_judge_reward_id(member) for member in group]
    if all(any(reward.id == i for reward in member.rewards) for i, member in zip(ids, group, strict=True)):
        return list(group), JudgeCost()
    try:
        verdict = await judge.score([(member.rollout, member.calls) for member in group])
    except JudgeFailed as error:
        return [_lost(member, str(error)) for member in group], JudgeCost()
    rewarded = [
        _with(member, [_reward(member, judge.config.weight * score)])
        for member, score in zip(group, verdict.scores, strict=True)
    ]
    return rewarded, verdict.cost


def _judge_reward_id(member: Member) -> str:
    return hashlib.sha256(f"judge {member.rollout.id} {member.rollout.attempt}".encode()).hexdigest()[:32]


def _reward(member: Member, value: float) -> Reward:
    return Reward(
        id=_judge_reward_id(member),
        rollout_id=member.rollout.id,
        attempt=member.rollout.attempt,
        value=value,
        name="judge",
        source="judge",
    )


def _with(member: Member, given: Sequence[Reward]) -> Member:
    known = {reward.id for reward in member.rewards}
    new = tuple(reward for reward in given if reward.id not in known)
    return dataclasses.replace(member, rewards=(*member.rewards, *new))


def _lost(member: Member, reason: str) -> Member:
    return dataclasses.replace(member, transitions=(), incomplete=(reason,))
