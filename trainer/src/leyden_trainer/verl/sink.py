"""A logger of verl's that writes where a run of the local backend writes too, and says on the terminal what a step was.

verl's figures keep their names, but for those that Leyden has a name for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["Sink"]

NAMES: Mapping[str, str] = {
    "leyden/reward": "reward",
    "leyden/success": "success",
    "leyden/reward_error": "reward_error",
    "leyden/tokens": "tokens",
    "actor/entropy": "entropy",
    "actor/grad_norm": "grad_norm",
    "actor/pg_loss": "loss",
    "actor/ppo_kl": "kl",
    "actor/clip_fraction": "clip_fraction",
    "leyden/staleness": "staleness",
    "leyden/mismatch": "mismatch",
    "timing_s/step": "seconds",
    "timing_s/gen": "seconds_rollouts",
}
SILENT = ("reward_error", "tokens", "staleness")


class Sink:
    """verl calls `log` once a step, with all figures of it."""

    def __init__(
        self,
        note: Callable[[int, Mapping[str, float]], None],
        remarks: Callable[[Mapping[str, float]], Iterable[str]],
    ) -> None:
        """`note` keeps the figures of a step; `remarks` has what else is to be said of one that trained."""
        self._note = note
        self._remarks = remarks

    def log(self, data: Mapping[str, Any], step: int) -> None:
        figures = {NAMES.get(name, name): float(v) for name, v in data.items() if isinstance(v, int | float)}
        self._note(step, figures)
        parts = [f"{name} {figures[name]:.4g}" for name in NAMES.values() if name in figures and name not in SILENT]
        print(f"step {step:>3}  {'  '.join(parts)}", flush=True)
        if "reward" in figures:
            for line in self._remarks(figures):
                print(f"  {line}", flush=True)

    def finish(self) -> None:
        """The journal is closed by who opened it."""
