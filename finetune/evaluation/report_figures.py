"""Figures of the report, each drawn for a wide and a narrow screen and kept as data."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.evaluation import charts, wording
from finetune.evaluation.figure import HALF_WIDTHS, Figure, figure
from finetune.evaluation.metrics import HIGHER_IS_BETTER
from finetune.evaluation.reliability_chart import Curve, reliability_chart
from finetune.evaluation.report_facts import CONTESTANT_NAMES, estimate_cell, get, metric_results, number
from finetune.evaluation.run_record import RunRecord
from finetune.evaluation.stacked_bars import Bar, Segment, stacked_chart
from finetune.evaluation.svg import nice_ticks
from finetune.records import Comparison

MAX_POINTS = 300
"""Longer curves are averaged in this many stretches."""
UNITS = {"bits_per_byte": ("bits per byte", 1.0)}
"""Unit of a metric's differences and its scale; of others percentage points."""


def estimate_figure(record: RunRecord) -> Figure | None:
    """The main metric's values with their intervals, base first."""
    if record.result is None or (metric := metric_results(record).get(record.result.main_metric)) is None:
        return None
    name = record.result.main_metric
    scale = UNITS[name][1] if name in UNITS else 100.0
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
    bounds = (0.0, nice_ticks(0.0, highest, 5)[-1] if scale == 1.0 else 100.0)
    title = f"{wording.METRIC_NAMES.get(name, (name, ''))[0]}, with 95 % intervals"
    return figure(
        lambda width: charts.interval_chart(
            intervals, width=width, title=title, bounds=bounds, unit="" if scale == 1.0 else " %"
        ),
        columns=["contestant", name, "low", "high", "items"],
        rows=[
            [model, f"{found.value:.4f}", f"{found.low:.4f}", f"{found.high:.4f}", str(found.n)]
            for model, found in metric.estimates.items()
        ],
    )


def difference_figures(record: RunRecord) -> list[Figure]:
    """Forest plots of tuned minus base, one for each unit, turned so that better lies on the right."""
    margin = number(get(record.config, "evaluation", "equivalence_margin"))
    by_unit: dict[tuple[str, float], list[str]] = {}
    for name, metric in metric_results(record).items():
        if metric.comparison is not None:
            by_unit.setdefault(UNITS.get(name, ("percentage points", 100.0)), []).append(name)
    drawn = [
        forest(
            {name: (wording.METRIC_NAMES.get(name, (name, ""))[0], name, _comparison(record, name)) for name in names},
            title=f"Difference tuned − base in {unit}",
            scale=scale,
            margin=margin,
        )
        for (unit, scale), names in by_unit.items()
    ]
    return [found for found in drawn if found is not None]


def _comparison(record: RunRecord, metric: str) -> Comparison:
    found = metric_results(record)[metric].comparison
    assert found is not None
    return found


def forest(
    found: Mapping[str, tuple[str, str, Comparison]],
    *,
    title: str,
    scale: float,
    margin: float | None,
    ends: tuple[str, str] = ("tuned worse", "tuned better"),
    columns: Sequence[str] = ("metric", "tuned − base", "low", "high", "p (Holm)", "verdict"),
) -> Figure | None:
    """Draw comparisons of one unit over one axis: by key the name to show, the metric and the comparison.

    `margin` shades the differences that count as none.
    """
    intervals: list[charts.Interval] = []
    rows: list[list[str]] = []
    for key, (name, metric, comparison) in found.items():
        sign = scale if HIGHER_IS_BETTER.get(metric, True) else -scale
        text = wording.format_value(metric, comparison.difference, signed=True)
        intervals.append(
            charts.Interval(
                name=name,
                text=f"{text} · {wording.format_interval(metric, comparison.low, comparison.high, signed=True)}",
                value=sign * comparison.difference,
                low=min(sign * comparison.low, sign * comparison.high),
                high=max(sign * comparison.low, sign * comparison.high),
                css_class=comparison.verdict,
            )
        )
        numbers = (comparison.difference, comparison.low, comparison.high, comparison.p_value)
        rows.append([key, *(f"{value:.4f}" for value in numbers), comparison.verdict])
    band = None if margin is None else (-scale * margin, scale * margin)
    edges = [abs(end) for interval in intervals for end in (interval.low, interval.high, *(band or ()))]
    reach = 1.08 * max(edges, default=1.0) or 1.0
    return figure(
        lambda width: charts.interval_chart(
            intervals, width=width, title=title, bounds=(-reach, reach), reference=0.0, ends=ends, band=band
        ),
        columns=columns,
        rows=rows,
    )


def loss_figure(record: RunRecord) -> Figure | None:
    """Training and validation loss by step."""
    lines = [
        charts.Line(name="training", css_class="training", points=points_of(record.steps, "loss")),
        charts.Line(
            name="validation", css_class="validation", points=points_of(record.steps, "validation_loss"), marked=True
        ),
    ]
    return figure(
        lambda width: charts.line_chart(lines, width=width, x_name="optimizer step", y_name="Loss (nats per token)"),
        columns=["step", "training loss", "validation loss"],
        rows=[
            [f"{row.get('step')}", *(_text(row.get(key), 4) for key in ("loss", "validation_loss"))]
            for row in _thinned(record.steps)
        ],
    )


def course_figures(record: RunRecord) -> list[Figure]:
    """Speed, gradient norm and learning rate by step, small."""
    wanted = (
        ("tokens_per_second", "Tokens per second", 1.0),
        ("peak_memory_bytes", "Peak memory (GB)", 1e-9),
        ("grad_norm", "Gradient norm", 1.0),
        ("learning_rate", "Learning rate (× 10⁻⁶)", 1e6),
    )
    drawn = [_small(record, key, title, scale) for key, title, scale in wanted]
    return [found for found in drawn if found is not None]


def _small(record: RunRecord, key: str, title: str, scale: float) -> Figure | None:
    points = [(step, scale * value) for step, value in points_of(record.steps, key)]
    if len(points) < 2:
        return None
    line = charts.Line(name="", css_class="other", points=points)
    return figure(
        lambda width: charts.line_chart(
            [line], width=width, height=170, x_name="optimizer step", y_name=title, from_zero=True
        ),
        columns=["step", key],
        rows=[[f"{step:.0f}", f"{value / scale:.6g}"] for step, value in points],
        widths=HALF_WIDTHS,
    )


def calibration_figure(record: RunRecord) -> Figure | None:
    """How often base and tuned are right where they are so sure, from the bins of summary.json; None without them."""
    curves: list[Curve] = []
    rows: list[list[str]] = []
    found = record.summary.get("calibration")
    for model, bins in found.items() if isinstance(found, Mapping) else ():
        whole = [part for part in map(_bin, bins if isinstance(bins, list) else []) if part is not None]
        if model in CONTESTANT_NAMES:
            points = [(part["confidence"], part["accuracy"], int(part["n"])) for part in whole]
            curves.append(Curve(name=CONTESTANT_NAMES[model], css_class=model, bins=points))
        rows += [
            [
                str(model),
                f"{part['low']:g} to {part['high']:g}",
                f"{part['n']:.0f}",
                f"{part['confidence']:.3f}",
                f"{part['accuracy']:.3f}",
            ]
            for part in whole
        ]
    return figure(
        lambda width: reliability_chart(curves, width=width, title="How often it is right, by how sure it is"),
        columns=["contestant", "confidence", "answers", "mean confidence", "share that is right"],
        rows=rows,
    )


def _bin(part: Any) -> dict[str, float] | None:
    """Read one reliability bin; None if a number is missing."""
    numbers = {key: number(get(part, key)) for key in ("low", "high", "n", "confidence", "accuracy")}
    found = {key: value for key, value in numbers.items() if value is not None}
    return found if len(found) == len(numbers) else None


def rows_figure(record: RunRecord) -> Figure | None:
    """What became of the rows that were read: used for training, validation or test, or left out."""
    splits = {str(name): size for name, size in (record.ledger.get("splits") or {}).items() if number(size)}
    out = {reason: size for reason, size in (record.ledger.get("rejected") or {}).items() if number(size)}
    if not splits:
        return None
    segments = [
        *(Segment(name=name, css_class=f"part-{name}", value=float(size)) for name, size in splits.items()),
        Segment(name="left out", css_class="part-left-out", value=float(sum(out.values()))),
    ]
    total = sum(segment.value for segment in segments)
    bar = Bar(name="rows", text=f"{total:,.0f}", segments=segments)
    return figure(
        lambda width: stacked_chart(
            [bar],
            width=width,
            title="What became of the rows",
            unit="",
            fills=True,
            write=lambda value: f"{value:,.0f}",
        ),
        columns=["split or reason", "rows"],
        rows=[[str(name), f"{size:.0f}"] for name, size in [*splits.items(), *out.items()]],
    )


def points_of(steps: Sequence[Mapping[str, Any]], key: str) -> list[charts.Point]:
    """Return (step, value) of a field of metrics.jsonl, averaged in stretches where there are many."""
    pairs = [(number(row.get("step")), number(row.get(key))) for row in steps]
    points = [(step, value) for step, value in pairs if step is not None and value is not None]
    size = -(-len(points) // MAX_POINTS)
    if size <= 1:
        return points
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in stretches]


def _thinned(steps: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out lines of long runs, but none with a validation loss."""
    every = -(-len(steps) // MAX_POINTS) or 1
    return [row for place, row in enumerate(steps) if place % every == 0 or row.get("validation_loss") is not None]


def _text(value: Any, places: int) -> str:
    found = number(value)
    return "" if found is None else f"{found:.{places}f}"
