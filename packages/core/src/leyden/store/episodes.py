"""Whole rollouts out of a store and into another: what export, import and deletion by age are made of."""

import time
from collections.abc import AsyncIterator, Sequence

from pydantic import BaseModel, ConfigDict
from sqlalchemy import Connection, select

from leyden.errors import BadInput
from leyden.store import facets, lifecycle, records
from leyden.store.protocol import Store
from leyden.store.schema import rollouts
from leyden.types import Call, Credit, Mode, Reward, Rollout, RolloutStatus

__all__ = ["Episode", "add_episodes", "episodes", "finished_before"]


class Episode(BaseModel):
    """A rollout with all that its last attempt left."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rollout: Rollout
    calls: tuple[Call, ...] = ()
    rewards: tuple[Reward, ...] = ()
    credits: tuple[Credit, ...] = ()


async def episodes(
    store: Store,
    *,
    run: str | None = None,
    mode: Mode | None = None,
    status: RolloutStatus | None = None,
    at_once: int = 50,
) -> AsyncIterator[Episode]:
    """The finished rollouts of a store, oldest first; what is queued or running is passed over."""
    after, more = 0, True
    while more:
        page = await store.rollouts(after=after, limit=at_once, run=run, mode=mode, status=status)
        ended = [rollout for rollout in page.rollouts if rollout.finished]
        ids = [rollout.id for rollout in ended]
        calls, rewards, credits = await store.calls(ids), await store.rewards(ids), await store.credits(ids)
        for rollout in ended:
            yield Episode(
                rollout=rollout,
                calls=tuple(call for call in calls if call.rollout_id == rollout.id),
                rewards=tuple(reward for reward in rewards if reward.rollout_id == rollout.id),
                credits=tuple(credit for credit in credits if credit.rollout_id == rollout.id),
            )
        after, more = page.cursor, page.more


def add_episodes(connection: Connection, new: Sequence[Episode]) -> int:
    """Insert episodes as they are; returns how many were not there yet.

    Raises:
        BadInput: one has not finished, or a part of it belongs to another rollout.
        Conflict: a rollout with its id is there, with other content.
    """
    added = 0
    for episode in new:
        _check(episode)
        if not lifecycle.insert_finished(connection, episode.rollout):
            continue
        records.insert_calls(connection, episode.calls)
        records.insert_rewards(connection, episode.rewards)
        records.put_credits(connection, episode.credits)
        facets.settle(connection, episode.rollout.id)
        added += 1
    return added


def _check(episode: Episode) -> None:
    name = episode.rollout.id
    if not episode.rollout.finished:
        raise BadInput(f"rollout {name} is {episode.rollout.status}; only finished rollouts are imported")
    for part in (*episode.calls, *episode.rewards, *episode.credits):
        if part.rollout_id != name:
            raise BadInput(f"the episode of rollout {name} has a part of rollout {part.rollout_id!r}: {part!r:.200}")


def finished_before(connection: Connection, age_s: float, run: str | None, limit: int | None) -> list[str]:
    """Ids of rollouts that finished more than `age_s` seconds ago, oldest first, at most `limit`."""
    query = select(rollouts.c.id).where(rollouts.c.finished_at < time.time() - age_s)
    if run is not None:
        query = query.where(rollouts.c.run == run)
    return list(connection.execute(query.order_by(rollouts.c.finished_at).limit(limit)).scalars())
