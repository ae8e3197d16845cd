"""The calibration curve: how often a model is right where it is so sure; a pure function."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from finetune.evaluation.svg import CHARACTER_PIXELS, drawing, rule, scale, text

LARGEST_DOT = 9.0
"""Radius in pixels of the bin that holds most answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One model's bins as (mean confidence, share that is right, answers), both shares in [0, 1]."""

    name: str
    css_class: str
    bins: Sequence[tuple[float, float, int]]


def reliability_chart(curves: Sequence[Curve], *, width: int, title: str) -> str:
    """Draw the curves over the diagonal of perfect calibration; a dot's area is the bin's number of answers."""
    curves = [curve for curve in curves if curve.bins]
    if not curves:
        return ""
    side = min(width, 420)
    left, top, bottom, right = 44.0, 52.0, 40.0, side - 12.0
    height = int(side + 20)
    to_x, to_y = scale((0.0, 1.0), (left, right)), scale((0.0, 1.0), (height - bottom, top))
    parts = [text(0, 12, title, "chart-title")]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        label = f"{100 * tick:.0f} %"
        anchor = "end" if tick == 1.0 else "middle"
        parts += [
            rule(left, to_y(tick), right, to_y(tick), "grid"),
            text(left - 6, to_y(tick) + 4, label, "tick", "end"),
            text(to_x(tick), height - bottom + 17, label, "tick", anchor),
        ]
    parts.append(rule(to_x(0), to_y(0), to_x(1), to_y(1), "reference"))
    parts.append(text((left + right) / 2, height - 6, "how sure the model is", "tick", "middle"))
    most = max(number for curve in curves for _, _, number in curve.bins) or 1
    start = 0.0
    for curve in curves:
        points = [(to_x(sure), to_y(right_share), number) for sure, right_share, number in curve.bins]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
        parts.append(f'<polyline class="line {curve.css_class}" points="{line}"/>')
        parts += [
            f'<circle class="dot {curve.css_class}" cx="{x:.1f}" cy="{y:.1f}" '
            f'r="{max(3.0, LARGEST_DOT * math.sqrt(number / most)):.1f}">'
            f"<title>{escape(curve.name)}: right in {right_share:.0%} of {number} answers, sure by {sure:.0%}</title>"
            "</circle>"
            for (x, y, number), (sure, right_share, _) in zip(points, curve.bins, strict=True)
        ]
        parts += [
            f'<rect class="key {curve.css_class}" x="{start:.1f}" y="26" width="14" height="4" rx="2"/>',
            text(start + 20, 32, curve.name, "tick"),
        ]
        start += 38 + CHARACTER_PIXELS * len(curve.name)
    return drawing(parts, side, height, title)
