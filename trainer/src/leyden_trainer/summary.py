"""The end of a run: its records, the small table, summary.json, and the learning curve as a picture."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Column, Table

__all__ = ["StepRecord", "Summary", "draw_curve", "write_summary"]


@dataclass(frozen=True)
class StepRecord:
    """What one optimiser step saw and did."""

    step: int
    reward: float
    """Mean over the step's complete training rollouts, as sampled."""
    success: float
    """The share of those rollouts with a reward of at least 1, as `leyden eval` counts it."""
    reward_error: float | None
    """The standard error of that mean, over groups, since rollouts of one task are alike; None for a single group."""
    staleness: float
    """Updates between the weights that sampled a token and those that learn from it, on average."""
    entropy: float
    """Mean per trained token, in nats."""
    kl: float
    """From the old policy."""
    reference_kl: float
    """From the start model; 0 without a KL term."""
    clip_fraction: float
    mismatch: float
    """Largest |log probability of sampler - of trainer| of a trained token."""
    importance_mean: float | None
    """Mean truncated importance weight; None unless loss.old_logprobs is "trainer"."""
    importance_capped: float | None
    """The share of tokens whose importance weight the cap cut."""
    grad_norm: float
    loss: float
    value_loss: float
    """0 without a critic."""
    explained_variance: float | None
    """Of the returns by the critic's values before the step; None without a critic, or if the returns do not vary."""
    tokens: int
    """Trained tokens."""
    rollouts: int
    failed: int
    incomplete: int
    silent_groups: int
    """Groups of the step that hold no signal."""
    replaced_groups: int
    """Groups that were lost to incomplete rollouts."""
    replaced_silent_groups: int
    """Groups without a signal that dynamic sampling left out."""
    judge_tokens: int
    """What the judge read and wrote; what came from its cache is not counted."""
    merge_rate: float
    seconds: float
    seconds_rollouts: float
    seconds_update: float

    @property
    def metrics(self) -> dict[str, float]:
        """For the journal: what this step had, but for its number."""
        values = dataclasses.asdict(self).items()
        return {name: float(value) for name, value in values if name != "step" and value is not None}

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Summary:
    """`summary.json`."""

    eval_base: float | None
    """Of the model as it came; None without a warm start."""
    eval_before: float
    """Before RL, after the warm start if there was one."""
    eval_after: float
    eval_best: float
    best_step: int
    steps: int
    rollouts: int
    """Training rollouts, the incomplete ones too."""
    seconds: float
    """From the first training rollout to the last update; evaluations and loading are not in it."""
    seconds_total: float
    seconds_warm_start: float
    """The supervised updates alone; 0 without a warm start."""
    model: str
    seed: int
    run: str

    def table(self) -> Table:
        """Before, after, steps, rollouts, minutes; with a warm start its part and RL's apart."""
        scores = {"held-out before": self.eval_before, "held-out after": self.eval_after}
        if self.eval_base is not None:
            scores = {
                "held-out base": self.eval_base,
                "after warm start": self.eval_before,
                "after RL": self.eval_after,
                "gain by RL": self.eval_after - self.eval_before,
            }
        cells = {name: f"{value:.3f}" for name, value in scores.items()}
        cells |= {"steps": str(self.steps), "rollouts": str(self.rollouts)}
        cells["training minutes"] = f"{self.seconds / 60:.1f}"
        table = Table(*(Column(name, justify="right") for name in cells), title=f"{self.run}: {self.model}")
        table.add_row(*cells.values())
        return table


def write_summary(path: Path, summary: Summary) -> None:
    """Write it whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(dataclasses.asdict(summary), indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)


def draw_curve(
    path: Path,
    title: str,
    train: Sequence[tuple[int, float]],
    heldout: Sequence[tuple[int, float]],
    base: float | None = None,
) -> None:
    """The learning curve: (step, mean reward) as sampled in training, and on the held-out tasks.

    Args:
        base: the held-out score before a warm start.
    """
    from matplotlib.figure import Figure  # half a second to import, and needed once
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*train, strict=True), color="tab:blue", alpha=0.6, label="training rollouts, as sampled")
    axes.plot(*zip(*heldout, strict=True), color="tab:orange", marker="o", label="held-out tasks")
    if base is not None:
        axes.axhline(base, color="tab:gray", linestyle="--", label="held-out tasks, before the warm start")
    axes.set(xlabel="optimiser step", ylabel="mean reward", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # half steps there are none
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
