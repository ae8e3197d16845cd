"""Inline SVG for the report: a line chart of losses and a chart of values with intervals. Pure functions, no styles.

Colours and fonts come from the page's style sheet by class name, so that light, dark and print share one drawing. Each
chart is drawn for one width in pixels; the page shows the one that fits.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]
Place = Callable[[float], float]

CHARACTER_PIXELS = 6.6
"""Width of a letter at the page's chart font size of 12 px, for margins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A series of (x, y) with its name; `marked` draws a dot at each point."""

    name: str
    css_class: str
    points: Sequence[Point]
    marked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with the ends of its interval, on an axis of its own (`axis`) or that of the chart."""

    name: str
    text: str
    """The numbers in words, such as `0.94 [0.90, 0.97]`."""
    value: float
    low: float
    high: float
    css_class: str


def line_chart(lines: Sequence[Line], *, width: int, x_name: str, y_name: str, height: int = 260) -> str:
    """Draw lines over common axes. Points that are no finite numbers are left out; "" if none is left."""
    lines = [_finite(line) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks = nice_ticks(min(xs), max(xs), 6 if width > 500 else 4)
    y_ticks = nice_ticks(min(ys), max(ys), 5)
    left = 14 + CHARACTER_PIXELS * max(len(label) for label in tick_labels(y_ticks))
    legend_y = 12.0 if width > 500 else 30.0  # below the title where both do not fit beside each other
    top, bottom, right = legend_y + 22, 40.0, 16.0
    to_x = _scale((min(xs), max(xs)), (left, width - right))
    to_y = _scale((min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])), (height - bottom, top))
    parts = [_text(0, 12, y_name, "chart-title")]
    for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        y = to_y(tick)
        parts += [_rule(left, y, width - right, y, "grid"), _text(left - 6, y + 4, label, "tick", "end")]
    for tick, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        if min(xs) <= tick <= max(xs):
            parts.append(_text(to_x(tick), height - bottom + 17, label, "tick", "middle"))
    parts.append(_text((left + width - right) / 2, height - 6, x_name, "tick", "middle"))
    for line in lines:
        parts += _draw_line(line, to_x, to_y)
    parts += _legend(lines, width - right, legend_y)
    summary = "; ".join(f"{line.name} from {line.points[0][1]:.3f} to {line.points[-1][1]:.3f}" for line in lines)
    return _svg(parts, width, height, f"{y_name} by {x_name}: {summary}")


def interval_chart(
    intervals: Sequence[Interval],
    *,
    width: int,
    title: str,
    bounds: tuple[float, float] | None = None,
    reference: float | None = None,
    ends: tuple[str, str] | None = None,
    unit: str = "",
) -> str:
    """Draw one row per value: a dot with its interval, its name above on the left and its numbers on the right.

    `bounds` fixes the axis, whose ticks bear `unit`. `reference` draws an upright mark, such as no difference; `ends`
    names what lies on its two sides. With a reference and no bounds every row has an axis of its own, symmetric about
    it, because the rows are of different units; the numbers say how large each is.
    """
    if not intervals:
        return ""
    row_height, top, bottom = 46.0, 42.0 if ends else 26.0, 24.0 if bounds else 8.0
    height = int(top + row_height * len(intervals) + bottom)
    left, right = 8.0, width - 8.0
    parts = [_text(0, 12, title, "chart-title")]
    if bounds is not None:
        parts += _axis(bounds, (left, right), (top, height - bottom), unit)
    if reference is not None:
        middle = _scale(bounds or (reference - 1, reference + 1), (left, right))(reference)
        rows = [top + row_height * row + 32 for row in range(len(intervals))]
        parts += [_rule(middle, y - 9, middle, y + 9, "reference") for y in rows]
        if ends:
            parts += [
                _text(middle - 10, top - 12, f"← {ends[0]}", "tick", "end"),
                _text(middle + 10, top - 12, f"{ends[1]} →", "tick"),
            ]
    for row, interval in enumerate(intervals):
        extent = bounds or _around(reference or 0.0, interval)
        parts += _draw_interval(interval, top + row_height * row, _scale(extent, (left, right)), left, right)
    return _svg(parts, width, height, f"{title}: " + "; ".join(f"{item.name} {item.text}" for item in intervals))


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) that span `low` to `high` in about `count` steps."""
    if high <= low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(multiple * power for multiple in (1, 2, 5, 10) if multiple * power >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Write ticks with just as many decimals as their step needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [f"{tick:,.{decimals}f}" for tick in ticks]


def _axis(bounds: Point, across: Point, down: Point, unit: str) -> list[str]:
    """Grid lines with their labels below, between the pixels `across` (left, right) and `down` (top, bottom)."""
    parts: list[str] = []
    ticks = nice_ticks(*bounds, 5)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        x = _scale(bounds, across)(tick)
        anchor = "start" if x - across[0] < 8 else "end" if across[1] - x < 8 else "middle"
        parts += [_rule(x, down[0], x, down[1], "grid"), _text(x, down[1] + 16, label + unit, "tick", anchor)]
    return parts


def _finite(line: Line) -> Line:
    points = [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
    return Line(name=line.name, css_class=line.css_class, points=points, marked=line.marked)


def _scale(source: tuple[float, float], target: tuple[float, float]) -> Callable[[float], float]:
    span = (source[1] - source[0]) or 1.0

    def place(value: float) -> float:
        return target[0] + (value - source[0]) / span * (target[1] - target[0])

    return place


def _around(reference: float, interval: Interval) -> tuple[float, float]:
    reach = max(abs(interval.low - reference), abs(interval.high - reference), abs(interval.value - reference)) or 1.0
    return reference - 1.15 * reach, reference + 1.15 * reach


def _draw_line(line: Line, to_x: Place, to_y: Place) -> list[str]:
    path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in line.points)
    parts = [f'<polyline class="line {line.css_class}" points="{path}"/>'] if len(line.points) > 1 else []
    if line.marked or len(line.points) == 1:
        parts += [
            f'<circle class="dot {line.css_class}" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="3.5">'
            f"<title>{escape(line.name)}: {y:.4f} at {x:g}</title></circle>"
            for x, y in line.points
        ]
    return parts


def _legend(lines: Sequence[Line], right: float, y: float) -> list[str]:
    parts: list[str] = []
    for line in reversed(lines):
        start = right - CHARACTER_PIXELS * len(line.name)
        parts += [
            _text(start, y, line.name, "tick"),
            f'<rect class="key {line.css_class}" x="{start - 20:.1f}" y="{y - 6:.1f}" width="14" height="4" rx="2"/>',
        ]
        right = start - 36
    return parts


def _draw_interval(interval: Interval, top: float, to_x: Place, left: float, right: float) -> list[str]:
    y = top + 32
    low, high = to_x(interval.low), to_x(interval.high)
    return [
        _text(left, top + 16, interval.name, "row-name"),
        _text(right, top + 16, interval.text, "row-text", "end"),
        _rule(left, y, right, y, "grid"),
        f'<rect class="bar {interval.css_class}" x="{low:.1f}" y="{y - 4:.1f}" width="{max(high - low, 1):.1f}" '
        f'height="8" rx="4"/>',
        f'<circle class="dot {interval.css_class}" cx="{to_x(interval.value):.1f}" cy="{y:.1f}" r="6">'
        f"<title>{escape(interval.name)}: {escape(interval.text)}</title></circle>",
    ]


def _rule(x1: float, y1: float, x2: float, y2: float, css_class: str) -> str:
    return f'<line class="{css_class}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, content: str, css_class: str, anchor: str = "start") -> str:
    return f'<text class="{css_class}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def _svg(parts: Sequence[str], width: int, height: int, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
