"""Inline SVG for the report: a line chart of losses and a chart of values with intervals. Pure functions, no styles.

Colours and fonts come from the page's style sheet by class name, so that light, dark and print share one drawing. Each
chart is drawn for one width in pixels; the page shows the one that fits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from finetune.evaluation.svg import CHARACTER_PIXELS, Place, drawing, nice_ticks, rule, scale, text, tick_labels

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A series of (x, y) with its name; `marked` draws a dot at each point."""

    name: str
    css_class: str
    points: Sequence[Point]
    marked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value with the ends of its interval."""

    name: str
    text: str
    """The numbers in words, such as `0.94 [0.90, 0.97]`."""
    value: float
    low: float
    high: float
    css_class: str


def line_chart(
    lines: Sequence[Line], *, width: int, x_name: str, y_name: str, height: int = 260, from_zero: bool = False
) -> str:
    """Draw lines over common axes, the upright one from zero if asked.

    Points that are no finite numbers are left out; "" if none is left. A line without a name has no legend.
    """
    lines = [_finite(line) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    first = 0.0 if 0 < min(xs) < 0.1 * max(xs) else min(xs)
    x_ticks = nice_ticks(first, max(xs), 6 if width > 500 else 4)
    y_ticks = nice_ticks(min(0.0, *ys) if from_zero else min(ys), max(ys), 5 if height > 200 else 3)
    left = 14 + CHARACTER_PIXELS * max(len(label) for label in tick_labels(y_ticks))
    is_named = any(line.name for line in lines)
    legend_y = 12.0 if width > 500 or not is_named else 30.0  # below the title where both do not fit beside each other
    top, bottom, right = legend_y + 22, 40.0, 16.0
    to_x = scale((first, max(xs)), (left, width - right))
    to_y = scale((min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])), (height - bottom, top))
    parts = [text(0, 12, y_name, "chart-title")]
    for tick, label in zip(y_ticks, tick_labels(y_ticks), strict=True):
        y = to_y(tick)
        parts += [rule(left, y, width - right, y, "grid"), text(left - 6, y + 4, label, "tick", "end")]
    for tick, label in zip(x_ticks, tick_labels(x_ticks), strict=True):
        if first <= tick <= max(xs):
            parts.append(text(to_x(tick), height - bottom + 17, label, "tick", "middle"))
    parts.append(text((left + width - right) / 2, height - 6, x_name, "tick", "middle"))
    for line in lines:
        parts += _draw_line(line, to_x, to_y)
    parts += _legend(lines, width - right, legend_y)
    summary = "; ".join(f"{line.name} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}" for line in lines)
    return drawing(parts, width, height, f"{y_name} by {x_name}: {summary}")


def interval_chart(
    intervals: Sequence[Interval],
    *,
    width: int,
    title: str,
    bounds: Point,
    reference: float | None = None,
    ends: tuple[str, str] | None = None,
    unit: str = "",
    band: Point | None = None,
) -> str:
    """Draw one row per value: its name, a dot with its interval, its numbers; on narrow screens the texts stand above.

    `bounds` are the ends of the axis, whose ticks bear `unit`. `reference` draws an upright mark, such as no
    difference; `ends` names what lies on its two sides; `band` shades a stretch of the axis.
    """
    if not intervals:
        return ""
    frame = _frame(intervals, width)
    top, bottom = 44.0 if ends else 26.0, 24.0
    height = int(top + frame.row_height * len(intervals) + bottom)
    to_x = scale(bounds, (frame.left, frame.right))
    parts = [text(0, 12, title, "chart-title")]
    if band is not None:
        parts.append(
            f'<rect class="band" x="{to_x(band[0]):.1f}" y="{top:.1f}" width="{to_x(band[1]) - to_x(band[0]):.1f}" '
            f'height="{height - bottom - top:.1f}"/>'
        )
    parts += _axis(bounds, (frame.left, frame.right), (top, height - bottom), unit)
    if reference is not None:
        parts.append(rule(to_x(reference), top, to_x(reference), height - bottom, "reference"))
        if ends:
            parts += [
                text(to_x(reference) - 10, top - 10, f"← {ends[0]}", "tick", "end"),
                text(to_x(reference) + 10, top - 10, f"{ends[1]} →", "tick"),
            ]
    for row, interval in enumerate(intervals):
        parts += _draw_interval(interval, top + frame.row_height * row, to_x, frame, width)
    return drawing(parts, width, height, f"{title}: " + "; ".join(f"{item.name} {item.text}" for item in intervals))


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the axis lies, and how high a row is."""

    left: float
    right: float
    row_height: float
    line: float
    """Height of an interval below its row's top."""
    text: float
    """Base line of a row's texts below its top."""


def _frame(intervals: Sequence[Interval], width: int) -> _Frame:
    """Put names and numbers beside the axis where there is room, else above each row."""
    if width <= 500:
        return _Frame(left=2, right=width - 2, row_height=42, line=30, text=16)
    names = max(len(interval.name) for interval in intervals)
    numbers = max(len(interval.text) for interval in intervals)
    left = CHARACTER_PIXELS * 1.12 * names + 16
    return _Frame(left=left, right=width - CHARACTER_PIXELS * numbers - 16, row_height=28, line=14, text=18)


def _axis(bounds: Point, across: Point, down: Point, unit: str) -> list[str]:
    """Grid lines with their labels below, between the pixels `across` (left, right) and `down` (top, bottom)."""
    parts: list[str] = []
    ticks = nice_ticks(*bounds, 8 if across[1] - across[0] > 400 else 5)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        if not bounds[0] <= tick <= bounds[1]:
            continue
        x = scale(bounds, across)(tick)
        anchor = "start" if x - across[0] < 8 else "end" if across[1] - x < 8 else "middle"
        parts += [rule(x, down[0], x, down[1], "grid"), text(x, down[1] + 16, label + unit, "tick", anchor)]
    return parts


def _finite(line: Line) -> Line:
    points = [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]
    return Line(name=line.name, css_class=line.css_class, points=points, marked=line.marked)


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
    for line in (line for line in reversed(lines) if line.name):
        start = right - CHARACTER_PIXELS * len(line.name)
        parts += [
            text(start, y, line.name, "tick"),
            f'<rect class="key {line.css_class}" x="{start - 20:.1f}" y="{y - 6:.1f}" width="14" height="4" rx="2"/>',
        ]
        right = start - 36
    return parts


def _draw_interval(interval: Interval, top: float, to_x: Place, frame: _Frame, width: int) -> list[str]:
    y, base = top + frame.line, top + frame.text
    low, high = to_x(interval.low), to_x(interval.high)
    return [
        text(0, base, interval.name, "row-name"),
        text(width, base, interval.text, "row-text", "end"),
        rule(frame.left, y, frame.right, y, "grid"),
        f'<rect class="bar {interval.css_class}" x="{low:.1f}" y="{y - 4:.1f}" width="{max(high - low, 1):.1f}" '
        f'height="8" rx="4"/>',
        f'<circle class="dot {interval.css_class}" cx="{to_x(interval.value):.1f}" cy="{y:.1f}" r="6">'
        f"<title>{escape(interval.name)}: {escape(interval.text)}</title></circle>",
    ]
