"""Several runs on one page: what each reached, and whether it is better than the first; `report runs=[…]` writes it.

Run folders are all that is read. Runs are compared item by item where they answered the same test items.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.config import EvaluationConfig
from finetune.evaluation import charts, report_facts, wording
from finetune.evaluation.figure import Figure, figure, page_styles
from finetune.evaluation.metrics import BASE, TUNED
from finetune.evaluation.report import environment
from finetune.evaluation.report_figures import UNITS, forest, points_of
from finetune.evaluation.report_size import section
from finetune.evaluation.run_record import RunRecord, read_run
from finetune.evaluation.summary import summarise
from finetune.records import Comparison, ItemScore

SIGNIFICANCE = 0.05
LINES = ("tuned", "line-2", "line-3", "line-4", "line-5", "other")
"""Colours of the runs' curves, by class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """One run's tuned model against the first run's, on the items that both answered."""

    name: str
    num_items: int
    comparison: Comparison | None
    """None where there are no common items."""


def build_comparison(run_dirs: Sequence[Path]) -> str:
    """Render the page of several runs, the first of which the others are compared with."""
    records = [read_run(path) for path in run_dirs]
    names = _names(run_dirs)
    metric = next((record.result.main_metric for record in records if record.result is not None), "")
    contrasts = [
        _contrast(name, record, records[0], metric, len(records) - 1)
        for name, record in zip(names[1:], records[1:], strict=True)
    ]
    return (
        environment(True)
        .get_template("comparison_page.html")
        .render(
            styles=page_styles(),
            names=names,
            metric=wording.METRIC_NAMES.get(metric, (metric, ""))[0],
            rows=[_row(name, record, metric) for name, record in zip(names, records, strict=True)],
            sentences=[_sentence(contrast, names[0]) for contrast in contrasts],
            verdict_names=wording.VERDICT_NAMES,
            estimate_figure=_estimates(names, records, metric),
            contrast_figure=_contrasts(contrasts, names[0], metric),
            loss_figure=_losses(names, records),
        )
    )


def _names(run_dirs: Sequence[Path]) -> list[str]:
    """Name runs by their folders, with as many parents as tell them apart."""
    parts = [path.absolute().parts for path in run_dirs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(found[-depth:]) for found in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in run_dirs]


def _scores(record: RunRecord, metric: str, model: str) -> dict[str, ItemScore]:
    return {item.item_id: item for item in record.items if item.metric == metric and item.model == model}


def _contrast(name: str, record: RunRecord, first: RunRecord, metric: str, num_contrasts: int) -> Contrast:
    """Compare as tuned is compared with base; p-values count for all contrasts (Bonferroni)."""
    ours, theirs = _scores(record, metric, TUNED), _scores(first, metric, TUNED)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return Contrast(name=name, num_items=0, comparison=None)
    items = [_as(BASE, theirs[item]) for item in common] + [_as(TUNED, ours[item]) for item in common]
    config = section(EvaluationConfig, first.config.get("evaluation")) or EvaluationConfig()
    found = summarise(items, config, main_metric=metric).metrics[metric].comparison
    assert found is not None
    p_value = min(1.0, found.p_value * num_contrasts)
    decided = found.verdict in ("better", "worse") and p_value >= SIGNIFICANCE
    verdict = "not_enough_data" if decided else found.verdict
    adjusted = Comparison(difference=found.difference, low=found.low, high=found.high, p_value=p_value, verdict=verdict)
    return Contrast(name=name, num_items=len(common), comparison=adjusted)


def _as(model: str, item: ItemScore) -> ItemScore:
    return ItemScore(
        item_id=item.item_id,
        cluster_id=item.cluster_id,
        model=model,
        metric=item.metric,
        value=item.value,
        weight=item.weight,
    )


def _sentence(contrast: Contrast, first: str) -> tuple[str, str]:
    """Return the verdict's code and a sentence that says it."""
    found = contrast.comparison
    if found is None:
        return "unknown", f"{contrast.name} and {first} answered no common test items; they cannot be compared."
    on = f"on {contrast.num_items} test items"
    words = {
        "better": f"{contrast.name} is better than {first} {on}.",
        "worse": f"{contrast.name} is worse than {first} {on}.",
        "equivalent": f"{contrast.name} is as good as {first} {on}.",
        "not_enough_data": f"Whether {contrast.name} is better than {first} does not show {on}.",
    }
    return found.verdict, words[found.verdict]


def _row(name: str, record: RunRecord, metric: str) -> dict[str, object]:
    """One run: what it is, what it reached, what it cost."""
    row: dict[str, object] = {
        "name": name,
        "verdict": "unknown",
        "what": report_facts.get(record.config, "model", "name"),
    }
    row["method"] = report_facts.method(record.config)
    row["facts"] = dict(report_facts.training_facts(record))
    found = report_facts.metric_results(record).get(metric)
    if found is not None:
        row["cells"] = {model: report_facts.estimate_cell(metric, value) for model, value in found.estimates.items()}
        if found.comparison is not None:
            row["verdict"] = found.comparison.verdict
    return row


def _estimates(names: Sequence[str], records: Sequence[RunRecord], metric: str) -> Figure | None:
    """The tuned models' values with their intervals, above them the base of the first run."""
    scale = UNITS[metric][1] if metric in UNITS else 100.0
    intervals: list[charts.Interval] = []
    rows: list[list[str]] = []
    for place, (name, record) in enumerate(zip(names, records, strict=True)):
        found = report_facts.metric_results(record).get(metric)
        for model in (BASE, TUNED) if place == 0 else (TUNED,):
            estimate = found.estimates.get(model) if found is not None else None
            if estimate is None:
                continue
            shown = f"{name} (base)" if model == BASE else name
            intervals.append(
                charts.Interval(
                    name=shown,
                    text=" · ".join(report_facts.estimate_cell(metric, estimate)),
                    value=scale * estimate.value,
                    low=scale * estimate.low,
                    high=scale * estimate.high,
                    css_class=model,
                )
            )
            rows.append([shown, *(f"{value:.4f}" for value in (estimate.value, estimate.low, estimate.high))])
    highest = max((interval.high for interval in intervals), default=1.0)
    bounds = (0.0, 1.05 * highest) if scale == 1.0 else (0.0, 100.0)
    title = f"{wording.METRIC_NAMES.get(metric, (metric, ''))[0]}, with 95 % intervals"
    return figure(
        lambda width: charts.interval_chart(
            intervals, width=width, title=title, bounds=bounds, unit="" if scale == 1.0 else " %"
        ),
        columns=["run", metric, "low", "high"],
        rows=rows,
    )


def _contrasts(contrasts: Sequence[Contrast], first: str, metric: str) -> Figure | None:
    named: Mapping[str, Comparison] = {
        contrast.name: contrast.comparison for contrast in contrasts if contrast.comparison is not None
    }
    unit, scale = UNITS.get(metric, ("percentage points", 100.0))
    return forest(
        {name: (name, metric, found) for name, found in named.items()},
        title=f"Difference to {first} in {unit}",
        scale=scale,
        margin=None,
        ends=("worse", "better"),
        columns=["run", f"run − {first}", "low", "high", "p (Bonferroni)", "verdict"],
    )


def _losses(names: Sequence[str], records: Sequence[RunRecord]) -> Figure | None:
    lines = [
        charts.Line(name=name, css_class=LINES[place % len(LINES)], points=points, marked=True)
        for place, (name, record) in enumerate(zip(names, records, strict=True))
        if (points := points_of(record.steps, "validation_loss"))
    ]
    return figure(
        lambda width: charts.line_chart(
            lines, width=width, x_name="optimizer step", y_name="Validation loss (nats per token)"
        ),
        columns=["run", "step", "validation loss"],
        rows=[[line.name, f"{step:.0f}", f"{loss:.4f}"] for line in lines for step, loss in line.points],
    )
