"""Figures of the report, drawn for a wide and a narrow screen; the style sheet shows the one that fits."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from finetune.evaluation import charts, wording
from finetune.evaluation.report_facts import CONTESTANT_NAMES, estimate_cell, metric_results, number, result_rows
from finetune.evaluation.run_record import RunRecord

WIDTHS = {"wide": 860, "narrow": 340}
"""Drawn widths in pixels."""
MAX_POINTS = 300
"""Longer curves are averaged in this many stretches."""


def estimate_charts(record: RunRecord) -> list[Markup]:
    """The main metric's values with their intervals, base first."""
    if record.result is None or (metric := metric_results(record).get(record.result.main_metric)) is None:
        return []
    name = record.result.main_metric
    scale = 1.0 if name == "bits_per_byte" else 100.0
    intervals = [
        charts.Interval(
            name=CONTESTANT_NAMES.get(model, model),
            text=" · ".join(estimate_cell(name, estimate)),
            value=scale * estimate.value,
            low=scale * estimate.low,
            high=scale * estimate.high,
            css_class=model if model in CONTESTANT_NAMES else "other",
        )
        for model, estimate in metric.estimates.items()
    ]
    highest = max(interval.high for interval in intervals)
    bounds = (0.0, charts.nice_ticks(0.0, highest, 5)[-1] if scale == 1.0 else 100.0)
    title = f"{wording.METRIC_NAMES.get(name, (name, ''))[0]}, with 95 % intervals"
    unit = "" if scale == 1.0 else " %"
    return [
        _drawn(charts.interval_chart(intervals, width=width, title=title, bounds=bounds, unit=unit), kind)
        for kind, width in WIDTHS.items()
    ]


def difference_charts(record: RunRecord) -> list[Markup]:
    """Tuned minus base for every metric, turned so that better lies on the right."""
    intervals = [
        charts.Interval(
            name=wording.METRIC_NAMES.get(name, (name, ""))[0],
            text=" · ".join(row["difference"]),
            value=sign * metric.comparison.difference,
            low=min(sign * metric.comparison.low, sign * metric.comparison.high),
            high=max(sign * metric.comparison.low, sign * metric.comparison.high),
            css_class=metric.comparison.verdict,
        )
        for (name, metric), row in zip(metric_results(record).items(), result_rows(record), strict=True)
        if metric.comparison is not None
        for sign in (-1 if name == "bits_per_byte" else 1,)
    ]
    title, ends = "Difference tuned − base, each on its own scale", ("tuned worse", "tuned better")
    return [
        _drawn(charts.interval_chart(intervals, width=width, title=title, reference=0.0, ends=ends), kind)
        for kind, width in WIDTHS.items()
        if intervals
    ]


def loss_charts(record: RunRecord) -> list[Markup]:
    """Training and validation loss by step."""
    lines = [
        charts.Line(name="training", css_class="training", points=_points(record.steps, "loss")),
        charts.Line(
            name="validation", css_class="validation", points=_points(record.steps, "validation_loss"), marked=True
        ),
    ]
    drawn = {
        kind: charts.line_chart(lines, width=width, x_name="optimizer step", y_name="Loss (nats per token)")
        for kind, width in WIDTHS.items()
    }
    return [_drawn(svg, kind) for kind, svg in drawn.items() if svg]


def _points(steps: Sequence[Mapping[str, Any]], key: str) -> list[charts.Point]:
    pairs = [(number(row.get("step")), number(row.get(key))) for row in steps]
    points = [(step, value) for step, value in pairs if step is not None and value is not None]
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return points
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in stretches]


def _drawn(svg: str, kind: str) -> Markup:
    return Markup(f'<div class="chart {kind}">{svg}</div>')  # charts.py escapes every text
