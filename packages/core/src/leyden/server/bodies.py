"""Bodies of the HTTP API that are not types of their own; their JSON is what `leyden.client` sends."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from leyden.types import Call, Claim, Credit, Endpoint, Reward, Rollout, Run, Step

__all__ = [
    "CallList",
    "ClaimList",
    "ClaimRequest",
    "CreditList",
    "EndpointList",
    "Held",
    "HeldIds",
    "IdList",
    "RewardList",
    "RolloutList",
    "RunBegin",
    "RunList",
    "StepList",
    "WaitRequest",
]

LONGEST_WAIT_S = 60.0

WaitSeconds = Annotated[float, Field(ge=0, le=LONGEST_WAIT_S)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RolloutList(Body):
    """Rollouts to queue, or that have finished."""

    rollouts: list[Rollout]


class ClaimRequest(Body):
    """Who wants how many rollouts, for how long, and how long it will wait for one."""

    runner: str
    limit: int = Field(ge=1, le=1000)
    lease_s: float = Field(gt=0)
    wait_s: WaitSeconds = 0.0


class ClaimList(Body):
    """Rollouts and the keys that open them."""

    claims: list[Claim]


class Held(Body):
    """(rollout id, attempt) pairs of one runner."""

    runner: str
    held: list[tuple[str, int]]
    lease_s: float = 0.0


class HeldIds(Body):
    """The rollouts that the runner still holds."""

    held: list[str]


class WaitRequest(Body):
    """Which rollouts to wait for."""

    rollout_ids: list[str]
    timeout_s: WaitSeconds


class IdList(Body):
    """Of which rollouts."""

    rollout_ids: list[str]


class CallList(Body):
    """Calls."""

    calls: list[Call]


class RewardList(Body):
    """Rewards."""

    rewards: list[Reward]


class EndpointList(Body):
    """Endpoints, newest published first."""

    endpoints: list[Endpoint]


class CreditList(Body):
    """Credits."""

    credits: list[Credit]


class RunBegin(Body):
    """A run that starts, or is resumed after a step."""

    run: Run
    after_step: int = Field(default=0, ge=0)


class RunList(Body):
    """Runs, the newest first."""

    runs: list[Run]


class StepList(Body):
    """What runs measured at steps."""

    steps: list[Step]
