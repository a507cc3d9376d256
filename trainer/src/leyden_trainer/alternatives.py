"""The extra rollouts of C3 (arXiv:2603.06859): one call of a rollout sampled again from its very same context.

Unlike the paper's, which replay every decision, a rollout has one call chosen by its seed, and so many alternatives as
the configuration pays for.
"""

import random
from collections.abc import Mapping, Sequence

from leyden.continuity import answered
from leyden.types import Call, Replay, Rollout
from leyden_trainer.credit import CreditMethod, view_agent

__all__ = ["alternatives"]


def alternatives(
    finished: Sequence[Rollout], calls: Mapping[str, Sequence[Call]], method: CreditMethod, *, replays: int, seed: int
) -> list[Rollout]:
    """Rollouts of the same groups that replay what came before one call, which is then sampled again.

    The first call has none: the whole group sampled it from one context. Only calls of agents that are trained are
    chosen; a rollout that is incomplete, or has no such call, has no alternatives.

    Args:
        finished: the rollouts of the step.
        calls: theirs, by rollout id.
        method: says which agents are trained.
        replays: alternatives for each rollout.
        seed: of the run; together with the rollout's id it chooses the call and how its alternatives are sampled.
    """
    wanted: list[Rollout] = []
    for rollout in finished:
        own = [call for call, _ in answered(calls.get(rollout.id, ()))]
        places = [place for place, call in enumerate(own) if place and method.trains(view_agent(call))]
        if rollout.status == "incomplete" or not places:
            continue
        chance = random.Random(f"{seed} {rollout.id}")
        place = chance.choice(places)
        for number in range(replays):
            sampling = rollout.sampling.model_copy(update={"seed": chance.getrandbits(31)})
            wanted.append(
                Rollout(
                    id=f"{rollout.id}-c{place}-a{number}",
                    group_id=rollout.group_id,
                    task_id=rollout.task_id,
                    task=rollout.task,
                    mode=rollout.mode,
                    run=rollout.run,
                    step=rollout.step,
                    reward_from=rollout.reward_from,
                    sampling=sampling,
                    replay=Replay(rollout_id=rollout.id, calls=place),
                )
            )
    return wanted
