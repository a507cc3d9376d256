"""Pages of runs: all of them, one, and several compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from markupsafe import Markup
from starlette.requests import Request

from leyden.dashboard import queries
from leyden.dashboard.charts import sparkline
from leyden.dashboard.curves import Measured, compared, learning_curve, of_run, zero_throughout
from leyden.dashboard.site import Page, Site
from leyden.dashboard.wording import public
from leyden.errors import BadInput, NotFound
from leyden.types import Run, Step

__all__ = ["compare_page", "run_page", "runs_page"]

_MOST_COMPARED = 6
_MOST_LISTED = 25


@dataclass(frozen=True)
class Listed:
    """One line of the list of runs."""

    run: Run
    measured: Measured
    spark: Markup

    @property
    def step(self) -> int:
        return self.measured.steps[-1].step if self.measured.steps else 0

    @property
    def noted_at(self) -> float | None:
        return max((step.noted_at for step in self.measured.steps), default=None)

    def ends(self, name: str) -> tuple[float, float] | None:
        """The first and the last value of a metric."""
        points = self.measured.points(name)
        return (points[0][1], points[-1][1]) if points else None


async def _listed(site: Site, run: Run) -> Listed:
    measured = Measured(run.name, await site.store.steps(run.name))
    points = measured.points("heldout") if len(measured.points("heldout")) > 2 else measured.points("reward")
    return Listed(run, measured, sparkline(points, f"reward of {run.name} over its steps"))


async def runs_page(site: Site, _: Request) -> Page:
    """All runs, the newest first, and runs that are known by their rollouts alone."""
    runs = await site.store.runs()
    listed = [await _listed(site, run) for run in runs[:_MOST_LISTED]]
    known = {run.name for run in runs}
    others = [name for name in await site.store.look(queries.known_runs) if name not in known]
    data = {"runs": [_run_json(run) for run in runs], "others": others}
    older = [run.name for run in runs[_MOST_LISTED:]]
    values = {"listed": listed, "older": older, "others": others}
    return Page("runs.html", lambda: values, lambda: data)


def _run_json(run: Run) -> dict[str, Any]:
    return {**run.model_dump(mode="json"), "config": public(dict(run.config))}


async def _run(site: Site, name: str) -> Run:
    for run in await site.store.runs():
        if run.name == name:
            return run
    raise NotFound(f"no run has the name {name!r}")


async def run_page(site: Site, request: Request) -> Page:
    """One run: curves, configuration, figures by step."""
    run = await _run(site, request.path_params["name"])
    listed = await _listed(site, run)
    steps = listed.measured.steps
    columns = ("reward", "heldout", "entropy", "kl", "clip_fraction", "mismatch", "tokens", "seconds")
    others = [other.name for other in await site.store.runs() if other.name != run.name]

    def values() -> dict[str, Any]:
        return {
            "run": run,
            "listed": listed,
            "curve": learning_curve(listed.measured),
            "charts": of_run(listed.measured),
            "zeros": zero_throughout([listed.measured]),
            "config": flattened(public(dict(run.config))),
            "columns": columns,
            "steps": list(reversed(steps))[:500],
            "others": others,
        }

    return Page("run.html", values, lambda: {"run": _run_json(run), "steps": _steps_json(steps)})


def _steps_json(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [step.model_dump(mode="json") for step in steps]


async def compare_page(site: Site, request: Request) -> Page:
    """Several runs: curves over each other, and where their configurations differ."""
    names = list(dict.fromkeys(request.query_params.getlist("run")))
    if len(names) > _MOST_COMPARED:
        raise BadInput(f"{len(names)} runs were given; at most {_MOST_COMPARED} can be told apart in one chart")
    runs = [await _run(site, name) for name in names]
    listed = [await _listed(site, run) for run in runs]
    known = [run.name for run in await site.store.runs()]

    def values() -> dict[str, Any]:
        return {
            "listed": listed,
            "charts": compared([one.measured for one in listed]) if listed else [],
            "zeros": zero_throughout([one.measured for one in listed]),
            "differences": differences([flattened(public(dict(run.config))) for run in runs]),
            "all": known,
            "names": names,
        }

    def data() -> dict[str, Any]:
        steps = {one.run.name: _steps_json(one.measured.steps) for one in listed}
        return {"runs": [_run_json(run) for run in runs], "steps": steps}

    return Page("compare.html", values, data)


def flattened(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flattened(cast("dict[str, Any]", value), f"{above}{name}.")
        else:
            flat[above + name] = value
    return flat


def differences(configs: Sequence[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """The settings that are not the same everywhere, with each one's value; None where it is missing."""
    names = sorted({name for config in configs for name in config})
    rows = [(name, [config.get(name) for config in configs]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]
