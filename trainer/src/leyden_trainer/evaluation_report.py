"""An evaluation as a JSON object and as a Markdown table."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leyden_trainer.evaluation import Comparison, Evaluation, Interval, compare

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """What was evaluated on which tasks; of two checkpoints, the second is compared with the first."""

    tasks: Path
    temperature: float
    ks: Sequence[int]
    """Of pass@k."""
    found: Sequence[Evaluation]

    @property
    def comparison(self) -> Comparison | None:
        return compare(self.found[0], self.found[1]) if len(self.found) == 2 else None

    def record(self) -> dict[str, Any]:
        """For `evaluation.json`; `rewards` are by task and try, null for an incomplete rollout."""
        first, comparison = self.found[0], self.comparison
        return {
            "tasks": str(self.tasks),
            "num_tasks": len(first.rewards),
            "tries": first.num_tries,
            "temperature": self.temperature,
            "success_at": first.success_at,
            "checkpoints": [
                {
                    "name": one.name,
                    "mean_reward": one.mean_reward,
                    "pass": {str(k): {"value": value, **asdict(interval)} for k, value, interval in self._passes(one)},
                    "incomplete": one.incomplete,
                    "failed": one.failed,
                    "rewards": one.rewards,
                }
                for one in self.found
            ],
            "comparison": comparison and asdict(comparison),
        }

    def markdown(self) -> str:
        """For `evaluation.md` and the terminal."""
        first, comparison = self.found[0], self.comparison
        heads = ["checkpoint", "mean reward", *(f"pass@{k} (95 %)" for k in self.ks), "failed", "incomplete"]
        lines = [
            f"{self.tasks.name}: {len(first.rewards)} tasks, {first.num_tries} tries each, "
            f"temperature {self.temperature:g}",
            "",
            _row(heads),
            _row(["---"] * len(heads)),
        ]
        for one in self.found:
            passes = [f"{value:.3f} ({at.low:.3f} to {at.high:.3f})" for _, value, at in self._passes(one)]
            lines.append(_row([one.name, f"{one.mean_reward:.3f}", *passes, str(one.failed), str(one.incomplete)]))
        if comparison:
            lines += [
                "",
                f"{self.found[1].name} against {first.name}: {comparison.gain:+.3f} mean reward, better on "
                f"{comparison.better} tasks, worse on {comparison.worse}; p = {comparison.p_value:.2g} "
                f"({comparison.test})",
            ]
        return "\n".join(lines) + "\n"

    def _passes(self, one: Evaluation) -> Iterator[tuple[int, float, Interval]]:
        for k in self.ks:
            yield k, *one.passing(k)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
