"""Pieces of inline SVG that charts are made of: texts, rules, scales, round ticks. Pure functions, no styles."""

import math
from collections.abc import Callable, Sequence
from html import escape

Place = Callable[[float], float]

CHARACTER_PIXELS = 6.6
"""Width of a letter at the page's chart font size of 12 px, for margins."""


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
    return [f"{tick + 0.0:,.{decimals}f}".replace("-", "−") for tick in ticks]


def scale(source: tuple[float, float], target: tuple[float, float]) -> Place:
    """Return the function that maps one span linearly onto another."""
    span = (source[1] - source[0]) or 1.0

    def place(value: float) -> float:
        return target[0] + (value - source[0]) / span * (target[1] - target[0])

    return place


def rule(x1: float, y1: float, x2: float, y2: float, css_class: str) -> str:
    """Draw a line."""
    return f'<line class="{css_class}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, content: str, css_class: str, anchor: str = "start") -> str:
    """Write a text on its base line."""
    return f'<text class="{css_class}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def drawing(parts: Sequence[str], width: int, height: int, label: str) -> str:
    """Put parts together; `label` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )
