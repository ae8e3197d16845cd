"""A chart of stacked horizontal bars against an upright limit, such as memory parts against a card; pure functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from finetune.evaluation.svg import CHARACTER_PIXELS, drawing, nice_ticks, rule, scale, text, tick_labels

_ROW, _BAR, _KEY = 44.0, 18.0, 18.0
"""Heights in pixels of a row with its names, of its bar, and of a line of the legend."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A stretch of a bar: its name in the legend, its colour by class, and its length in the axis's unit."""

    name: str
    css_class: str
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A row: its name on the left, its total in words on the right, its segments from left to right."""

    name: str
    text: str
    segments: Sequence[Segment]

    @property
    def total(self) -> float:
        return sum(segment.value for segment in self.segments)


def stacked_chart(
    bars: Sequence[Bar],
    *,
    width: int,
    title: str,
    unit: str,
    write: Callable[[float], str],
    limit: float | None = None,
    limit_name: str = "",
    fills: bool = False,
) -> str:
    """Draw bars over one axis from zero; `limit` is an upright line with its name. "" if there is no bar.

    `fills` ends the axis with the longest bar.

    `write` puts a value into words for the hints; `unit` follows the numbers of the axis.
    """
    if not bars:
        return ""
    names = dict.fromkeys((part.name, part.css_class) for bar in bars for part in bar.segments if part.value > 0)
    legend, keys = _legend(list(names), width)
    top = 22.0 + _KEY * keys + (20.0 if limit is not None else 0.0)
    height = int(top + _ROW * len(bars) + 26)
    left, right = 1.0, width - 1.0
    ticks = nice_ticks(0.0, max(*(bar.total for bar in bars), limit or 0.0, 1e-9), 6 if width > 500 else 4)
    extent = max(bar.total for bar in bars) if fills else ticks[-1]
    ticks = [tick for tick in ticks if tick <= extent]
    to_x = scale((0.0, extent), (left, right))
    parts = [text(0, 12, title, "chart-title"), *legend]
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        anchor = "start" if tick == ticks[0] else "end" if to_x(tick) > right - 20 else "middle"
        parts += [
            rule(to_x(tick), top, to_x(tick), height - 22, "grid"),
            text(to_x(tick), height - 6, label + unit, "tick", anchor),
        ]
    if limit is not None:
        parts += _limit(limit_name, to_x(limit), (top, height - 22.0), width)
    for number, bar in enumerate(bars):
        written = right - CHARACTER_PIXELS * len(bar.text)
        is_crossed = limit is not None and written - 6 < to_x(limit) < right
        end = to_x(limit) - 8 if limit is not None and is_crossed else right
        parts += _row(bar, top + _ROW * number, to_x, end, write)
        if limit is not None:
            y = top + _ROW * number + 22
            parts.append(rule(to_x(limit), y - 4, to_x(limit), y + _BAR + 4, "limit"))
    return drawing(parts, width, height, f"{title}: " + "; ".join(f"{bar.name} {bar.text}" for bar in bars))


def _row(
    bar: Bar, top: float, to_x: Callable[[float], float], right: float, write: Callable[[float], str]
) -> list[str]:
    """Draw a bar under its name and its total, which ends at `right`, clear of the limit."""
    parts = [text(1, top + 15, bar.name, "row-name"), text(right, top + 15, bar.text, "row-text", "end")]
    start = 0.0
    for segment in bar.segments:
        if segment.value <= 0:
            continue
        x, end = to_x(start), to_x(start + segment.value)
        parts.append(
            f'<rect class="part {segment.css_class}" x="{x:.1f}" y="{top + 22:.1f}" width="{max(end - x, 0.6):.1f}" '
            f'height="{_BAR:.0f}"><title>{escape(segment.name)}: {escape(write(segment.value))}</title></rect>'
        )
        start += segment.value
    return parts


def _limit(name: str, x: float, down: tuple[float, float], width: int) -> list[str]:
    """Draw the upright line; its name stands on the side with more room."""
    anchor, at = ("end", x - 6) if x > width / 2 else ("start", x + 6)
    return [rule(x, down[0] - 16, x, down[1], "limit faint"), text(at, down[0] - 6, name, "limit-name", anchor)]


def _legend(names: Sequence[tuple[str, str]], width: int) -> tuple[list[str], int]:
    """Lay the keys out from left to right in as many lines as they need; return them and the number of lines."""
    parts: list[str] = []
    x, line = 0.0, 0
    for name, css_class in names:
        needed = 18 + CHARACTER_PIXELS * len(name)
        if x and x + needed > width:
            x, line = 0.0, line + 1
        y = 32 + _KEY * line
        parts += [
            f'<rect class="part {css_class}" x="{x:.1f}" y="{y - 9:.1f}" width="11" height="11" rx="2"/>',
            text(x + 16, y, name, "tick"),
        ]
        x += needed + 14
    return parts, line + 1
