"""What runs measured, as charts: one run's, or several over each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from leyden.dashboard.charts import Band, Chart, Point, Series, bars, curve
from leyden.types import Step

__all__ = ["Measured", "compared", "learning_curve", "of_run", "zero_throughout"]

_CONFIDENCE = 1.96  # standard errors to each side: 95 % of a normal distribution


@dataclass(frozen=True)
class Measured:
    """A run's steps, by the names of either backend."""

    name: str
    steps: Sequence[Step]

    def value(self, step: Step, name: str) -> float | None:
        """A metric of a step; verl's backend puts its own under `leyden/`."""
        known = step.metrics
        return known.get(name, known.get(f"leyden/{name}"))

    def points(self, name: str) -> list[Point]:
        """A metric over steps."""
        pairs = [(float(step.step), self.value(step, name)) for step in self.steps]
        return [(x, y) for x, y in pairs if y is not None]

    def band(self, name: str) -> list[Band]:
        """The 95 % confidence interval of a mean, where its standard error is known."""
        found: list[Band] = []
        for step in self.steps:
            mean, error = self.value(step, name), self.value(step, f"{name}_error")
            if mean is not None and error is not None:
                found.append((step.step, mean - _CONFIDENCE * error, mean + _CONFIDENCE * error))
        return found

    def rate(self) -> list[Point]:
        """Trained tokens a second of a step's whole time."""
        pairs = [(step.step, self.value(step, "tokens"), self.value(step, "seconds")) for step in self.steps]
        return [(x, tokens / seconds) for x, tokens, seconds in pairs if tokens is not None and seconds]


_CHARTS: tuple[tuple[str, Callable[[Measured], list[Point]], str, float | None], ...] = (
    ("Entropy", lambda run: run.points("entropy"), "nats, mean of the trained tokens", 0.0),
    ("KL from the old policy", lambda run: run.points("kl"), "mean of the trained tokens", None),
    ("KL from the start model", lambda run: run.points("reference_kl"), "where the loss has such a term", None),
    ("Clip rate", lambda run: run.points("clip_fraction"), "share of tokens whose ratio was clipped", 0.0),
    ("Sampler–trainer mismatch", lambda run: run.points("mismatch"), "largest difference of log probabilities", 0.0),
    ("Staleness", lambda run: run.points("staleness"), "updates between sampling and learning", 0.0),
    ("Tokens per second", Measured.rate, "trained tokens over the step's time", 0.0),
    ("Gradient norm", lambda run: run.points("grad_norm"), "before it is cut", 0.0),
    ("Merge rate", lambda run: run.points("merge_rate"), "calls that go on with an earlier one's tokens", 0.0),
    ("Incomplete rollouts", lambda run: run.points("incomplete"), "counted, shown, not trained on", 0.0),
    ("Groups without a signal", lambda run: run.points("silent_groups"), "all rollouts did equally well", 0.0),
)


def learning_curve(run: Measured) -> Chart | None:
    """Mean reward as sampled in training and on the held-out tasks."""
    train = Series("train", run.points("reward"), run.band("reward"), place=0)
    heldout = Series("held-out", run.points("heldout"), run.band("heldout"), dots=True, place=1)
    return curve("Learning curve", [train, heldout], note="mean reward; bands are 95 % confidence intervals")


def of_run(run: Measured) -> list[Chart]:
    """All charts of one run but for the learning curve, and for those of nothing but zeros."""
    drawn = [
        curve(title, [Series(title, points(run))], note=note, floor=floor)
        for title, points, note, floor in _CHARTS
        if any(value for _, value in points(run))
    ]
    return [chart for chart in (*drawn, _time_spent(run)) if chart is not None]


def zero_throughout(runs: Sequence[Measured]) -> list[str]:
    """The titles of what was measured and was 0 at every step of every run, which needs no chart."""
    values = {title: [value for run in runs for _, value in points(run)] for title, points, _, _ in _CHARTS}
    return [title for title, of in values.items() if of and not any(of)]


def _time_spent(run: Measured) -> Chart | None:
    steps = [step for step in run.steps if run.value(step, "seconds") is not None][-60:]
    whole = [run.value(step, "seconds") or 0.0 for step in steps]
    sampled = [run.value(step, "seconds_rollouts") or 0.0 for step in steps]
    updated = [run.value(step, "seconds_update") or 0.0 for step in steps]
    rest = [max(w - s - u, 0.0) for w, s, u in zip(whole, sampled, updated, strict=True)]
    stacks = [("rollouts", sampled), ("update", updated), ("rest", rest)]
    known = [(name, values) for name, values in stacks if max(values, default=0.0) > 1e-3]
    return bars("Where time goes", [step.step for step in steps], known, note="seconds of each step")


def compared(runs: Sequence[Measured]) -> list[Chart]:
    """The curves of several runs over each other."""
    both = (("Held-out reward", "heldout"), ("Training reward", "reward"))
    drawn = [
        curve(
            title,
            [
                Series(run.name, run.points(name), run.band(name), dots=name == "heldout", place=place)
                for place, run in enumerate(runs)
            ],
            note="mean; bands are 95 % confidence intervals",
        )
        for title, name in both
    ]
    drawn += [
        curve(
            title,
            [Series(run.name, points(run), place=place) for place, run in enumerate(runs)],
            note=note,
            floor=floor,
        )
        for title, points, note, floor in _CHARTS
        if any(value for run in runs for _, value in points(run))
    ]
    return [chart for chart in drawn if chart is not None]
