"""Curves and bars as SVG with text in HTML around it, so that text keeps its size on a phone and follows the theme.

Unlike a plotting library there is no script, no inline style and no colour in it: the stylesheet has all of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Band", "Chart", "Point", "Series", "bars", "curve", "sparkline"]

Point = tuple[float, float]
Band = tuple[float, float, float]
"""x, lower, upper."""

_W, _H = 1000.0, 400.0  # of the drawing; it is stretched to its place
_MOST_TARGETS = 240


@dataclass(frozen=True)
class Series:
    """One curve. `place` chooses its colour."""

    name: str
    points: Sequence[Point]
    band: Sequence[Band] = ()
    dots: bool = False
    place: int = 0


@dataclass(frozen=True)
class Chart:
    """What a page shows of a chart: its drawing, what is written around it, and its title."""

    title: str
    drawing: Markup
    x_labels: tuple[str, ...]
    y_labels: tuple[str, ...]
    series: Sequence[Series]
    note: str = ""


@dataclass(frozen=True)
class _Frame:
    """From values to places in the drawing."""

    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return round(_W * (value - self.left) / ((self.right - self.left) or 1.0), 2)

    def y(self, value: float) -> float:
        return round(_H * (1 - (value - self.low) / (self.high - self.low)), 2)


def curve(title: str, series: Sequence[Series], *, note: str = "", floor: float | None = None) -> Chart | None:
    """A line chart over optimiser steps; None if there is nothing to draw.

    Args:
        title: what is measured.
        series: the curves; those without points are left out.
        note: a word on how to read it.
        floor: a value that the lower end of the axis does not go above.
    """
    drawn = [one for one in series if one.points]
    if not drawn:
        return None
    frame = _frame(drawn, floor)
    parts = [_grid(frame)]
    parts += [_band(one, frame) for one in drawn if one.band]
    parts += [_line(one, frame) for one in drawn]
    parts += [_targets(drawn, frame)]
    ticks = _ticks(frame.low, frame.high)
    middle = (frame.left + frame.right) / 2
    x_labels = tuple(f"{value:g}" for value in dict.fromkeys((frame.left, round(middle), frame.right)))
    return Chart(title, _svg(title, drawn, parts), x_labels, tuple(map(_number, reversed(ticks))), drawn, note)


def bars(
    title: str, xs: Sequence[float], stacks: Sequence[tuple[str, Sequence[float]]], *, note: str = ""
) -> Chart | None:
    """A chart of stacked bars, one for each x; None if there is nothing to draw."""
    if not xs or not stacks:
        return None
    totals = [sum(values[i] for _, values in stacks) for i in range(len(xs))]
    frame = _Frame(0, len(xs), 0.0, _ceiling(max(totals)))
    parts = [_grid(frame)]
    for i, x in enumerate(xs):
        below, told = 0.0, ", ".join(f"{name} {_number(values[i])}" for name, values in stacks)
        boxes: list[Markup] = []
        for place, (_, values) in enumerate(stacks):
            top = below + values[i]
            box = Markup('<rect class="b{}" x="{}" y="{}" width="{}" height="{}"/>')
            height = round(frame.y(below) - frame.y(top), 2)
            boxes.append(box.format(place, frame.x(i + 0.08), frame.y(top), frame.x(0.84), height))
            below = top
        told = f"{x:g}: {told}"
        parts.append(Markup("<g><title>{}</title>{}</g>").format(told, Markup("").join(boxes)))
    series = [
        Series(name, [(x, v) for x, v in zip(xs, values, strict=True)], place=i)
        for i, (name, values) in enumerate(stacks)
    ]
    ticks = _ticks(frame.low, frame.high)
    ends = tuple(f"{x:g}" for x in dict.fromkeys((xs[0], xs[-1])))
    return Chart(title, _svg(title, series, parts), ends, tuple(map(_number, reversed(ticks))), series, note)


def sparkline(points: Sequence[Point], label: str) -> Markup:
    """A curve as small as a word."""
    if len(points) < 2:
        return Markup("")
    frame = _frame([Series("", points)], None)
    return Markup(
        '<svg class="spark" viewBox="0 0 1000 400" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, _line(Series("", points), frame))


def _svg(title: str, series: Sequence[Series], parts: Sequence[Markup]) -> Markup:
    ends = [f"{one.name} from {_number(one.points[0][1])} to {_number(one.points[-1][1])}" for one in series]
    label = f"{title}: {', '.join(ends)}"
    opening = '<svg class="plot" viewBox="0 0 1000 400" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    return Markup(opening).format(label, Markup("").join(parts))


def _frame(series: Sequence[Series], floor: float | None) -> _Frame:
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points] + [y for one in series for _, *ends in one.band for y in ends]
    low, high = min(ys), max(ys)
    if floor is not None:
        low = min(low, floor)
    if high - low < 1e-12:
        low, high = low - (abs(low) * 0.1 or 0.5) * (floor is None), high + (abs(high) * 0.1 or 0.5)
    step = _step(high - low)
    return _Frame(min(xs), max(xs), math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step)


def _step(span: float) -> float:
    """A round distance of grid lines, of which about four fit."""
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 2.5, 5, 10) if rough <= factor * power * 1.0001)


def _ceiling(value: float) -> float:
    step = _step(value) if value > 0 else 1.0
    return math.ceil(value / step - 1e-9) * step


def _ticks(low: float, high: float) -> list[float]:
    step = _step(high - low)
    return [low + i * step for i in range(round((high - low) / step) + 1)]


def _grid(frame: _Frame) -> Markup:
    line = Markup('<line class="grid" x1="0" x2="1000" y1="{0}" y2="{0}"/>')
    return Markup("").join(line.format(frame.y(tick)) for tick in _ticks(frame.low, frame.high))


def _line(one: Series, frame: _Frame) -> Markup:
    places = [(frame.x(x), frame.y(y)) for x, y in one.points]
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in places)
    drawn = Markup('<path class="line s{}" d="{}"/>').format(one.place, path)
    if one.dots or len(places) == 1:
        dots = " ".join(f"M{x:g} {y:g}h0" for x, y in places)
        drawn += Markup('<path class="dots s{}" d="{}"/>').format(one.place, dots)
    return drawn


def _band(one: Series, frame: _Frame) -> Markup:
    upper = [f"{frame.x(x):g} {frame.y(high):g}" for x, _, high in one.band]
    lower = [f"{frame.x(x):g} {frame.y(low):g}" for x, low, _ in reversed(one.band)]
    return Markup('<path class="band s{}" d="M{}Z"/>').format(one.place, " L".join(upper + lower))


def _targets(series: Sequence[Series], frame: _Frame) -> Markup:
    """What a pointer finds above each step: its values in words."""
    xs = sorted({x for one in series for x, _ in one.points})
    xs = xs[:: max(1, math.ceil(len(xs) / _MOST_TARGETS))]
    known = [(one.name, dict(one.points)) for one in series]
    width = _W / max(len(xs), 1)
    boxes: list[Markup] = []
    for x in xs:
        told = ", ".join(f"{name} {_number(values[x])}" for name, values in known if x in values)
        box = Markup('<rect class="target" x="{}" y="0" width="{}" height="400"><title>step {:g}: {}</title></rect>')
        boxes.append(box.format(round(frame.x(x) - width / 2, 2), round(width, 2), x, told))
    return Markup("").join(boxes)


def _number(value: float) -> str:
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) < 1e9 else str(escape(value))
