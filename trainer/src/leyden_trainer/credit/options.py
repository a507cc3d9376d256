"""The parameters of each method, validated: `[credit.options]` of the configuration. An unknown one is an error."""

from pydantic import BaseModel, ConfigDict, Field

from leyden_trainer.credit.anchors import Anchor
from leyden_trainer.credit.compare import Scale

__all__ = [
    "AnchorTd",
    "Gigpo",
    "GroupRegression",
    "Hae",
    "MtGrpo",
    "MultiLevelGae",
    "NoOptions",
    "Options",
    "Ppo",
    "Rae",
    "ReturnToGo",
    "TaskRegression",
    "TurnPpo",
]


class Options(BaseModel):
    """What every method's parameters have in common: they are fixed, and no others are known."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoOptions(Options):
    """The method has no parameters."""


class ReturnToGo(Options):
    """See `relative.return_to_go`."""

    gamma: float = Field(default=0.95, ge=0, le=1)
    """Per call."""


class MtGrpo(Options):
    """See `relative.mt_grpo`."""

    weight: float = Field(default=1.0, ge=0)
    """λ, of the outcome's advantage."""


class Rae(Options):
    """See `relative.rae`."""

    decay: float = Field(default=0.95, ge=0, lt=1)
    """Per rollout."""


class Gigpo(Options):
    """See `anchors.gigpo`."""

    gamma: float = Field(default=0.95, ge=0, le=1)
    weight: float = Field(default=1.0, ge=0)
    """ω, of the step part."""
    scale: Scale = "std"
    anchor: Anchor = "observation"


class GroupRegression(Options):
    """See `regression.group_regression`."""

    share: float = Field(default=0.3, ge=0, le=1)
    """Of what no decision explains; each call of the rollout gets it."""
    anchor: Anchor = "observation"


class AnchorTd(Options):
    """See `anchor_td.anchor_td`."""

    lam: float = Field(default=0.5, ge=0, le=1)
    """Per call of the agent."""
    decay: float = Field(default=0.7, ge=0, lt=1)
    """Per step, of what earlier steps saw."""
    share: float = Field(default=0.3, ge=0, le=1)
    """Of `broadcast`; the rest is the TD part."""
    anchor: Anchor = "observation"


class TaskRegression(Options):
    """See `task_regression.task_regression`."""

    remember: int = Field(default=128, ge=2)
    """Rollouts of a task; the oldest are forgotten first."""
    evidence: float = Field(default=0.15, ge=0, le=1)
    """Share of the squared error, of predicting rollouts left out, that decisions must explain."""
    anchor: Anchor = "observation"


class Ppo(Options):
    """See `critic.token_gae`: one horizon."""

    gamma: float = Field(default=1.0, ge=0, le=1)
    """Per token."""
    lam: float = Field(default=1.0, ge=0, le=1)
    normalize: bool = True


class TurnPpo(Options):
    """See `critic.turn_ppo`."""

    gamma: float = Field(default=0.99, ge=0, le=1)
    """Per call."""
    lam: float = Field(default=0.9, ge=0, le=1)
    normalize: bool = True


class MultiLevelGae(Options):
    """See `critic.token_gae`: a horizon for each kind of border."""

    gamma: float = Field(default=1.0, ge=0, le=1)
    lam: float = Field(default=1.0, ge=0, le=1)
    gamma_call: float = Field(default=0.99, ge=0, le=1)
    lam_call: float = Field(default=0.95, ge=0, le=1)
    gamma_segment: float = Field(default=0.99, ge=0, le=1)
    lam_segment: float = Field(default=0.95, ge=0, le=1)
    normalize: bool = True


class Hae(Options):
    """See `critic.hae`."""

    gamma: float = Field(default=0.95, ge=0, le=1)
    """Per call."""
    lam: float = Field(default=0.95, ge=0, le=1)
    lam_segment: float = Field(default=0.95, ge=0, le=1)
    normalize: bool = True
