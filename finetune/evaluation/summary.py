"""The item table, and every number that follows from it: `evaluate` fills it, jobs and the report read it.

`items.jsonl` has one line per item x model x metric; `summarise` needs nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.config import METRICS, EvaluationConfig
from finetune.errors import DataError
from finetune.evaluation import calibration, statistics, verdicts
from finetune.evaluation.calibration import Judged
from finetune.evaluation.metrics import BASE, CHOICE_CONFIDENCE, CONTINUOUS, HIGHER_IS_BETTER, MAJORITY, TUNED
from finetune.evaluation.statistics import PairedDifference
from finetune.records import Comparison, Estimate, EvaluationResult, ItemScore, MetricResult, ReliabilityBin
from finetune.run import write_text

Table = dict[str, dict[str, list[ItemScore]]]
"""Scores by metric and contestant."""


def summarise(
    items: Sequence[ItemScore], config: EvaluationConfig, *, seed: int = 0, main_metric: str | None = None
) -> EvaluationResult:
    """Estimate every contestant on every metric and compare tuned with base; p-values are Holm-adjusted over metrics.

    `main_metric` stands first; None takes the first of choice_accuracy, exact_match, bits_per_byte that is there.

    Raises:
        ValueError: if there are no items, or base and tuned do not cover the same ones.
    """
    table: Table = {}
    for item in items:
        table.setdefault(item.metric, {}).setdefault(item.model, []).append(item)
    if not table:
        raise ValueError("no items to summarise")
    answers = _judged(table)
    found: dict[str, _Measured] = {
        name: _measured(table[name], name in CONTINUOUS, config.bootstrap_samples, seed) for name in table
    }
    if answers:
        found["calibration_error"] = _calibration(answers, config.bootstrap_samples, seed)
    main_metric = main_metric or next(name for name in ("choice_accuracy", "exact_match", *found) if name in found)
    order = {name: place for place, name in enumerate((*METRICS, *sorted(found.keys() - set(METRICS))))}
    order[main_metric] = -1
    names = sorted(found, key=order.__getitem__)
    comparisons = _conclude_all({name: found[name] for name in names}, config.equivalence_margin)
    return EvaluationResult(
        main_metric=main_metric,
        metrics={
            name: MetricResult(estimates=found[name].estimates, comparison=comparisons.get(name)) for name in names
        },
        calibration={model: calibration.reliability(judged) for model, judged in answers.items()},
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """One metric before any verdict."""

    estimates: dict[str, Estimate]
    pair: PairedDifference | None


def _measured(scores: Mapping[str, list[ItemScore]], continuous: bool, samples: int, seed: int) -> _Measured:
    estimates = {model: statistics.estimate(column, samples=samples, seed=seed) for model, column in scores.items()}
    pair = None
    if BASE in scores and TUNED in scores:
        pair = statistics.paired_difference(
            scores[BASE], scores[TUNED], continuous=continuous, samples=samples, seed=seed
        )
    return _Measured(estimates, pair)


def _judged(table: Table) -> dict[str, Judged]:
    """Take the confidences out of the table, joined with whether the answers are right, by contestant."""
    confidences, accuracies = table.pop(CHOICE_CONFIDENCE, {}), table.get("choice_accuracy", {})
    return {
        model: calibration.judged(accuracies[model], scores)
        for model, scores in confidences.items()
        if model in accuracies
    }


def _calibration(answers: Mapping[str, Judged], samples: int, seed: int) -> _Measured:
    estimates = {
        model: calibration.estimate_calibration(judged, samples=samples, seed=seed) for model, judged in answers.items()
    }
    pair = None
    if BASE in answers and TUNED in answers:
        pair = calibration.calibration_difference(answers[BASE], answers[TUNED], samples=samples, seed=seed)
    return _Measured(estimates, pair)


def _conclude_all(found: Mapping[str, _Measured], margin: float) -> dict[str, Comparison]:
    pairs = {name: measured.pair for name, measured in found.items() if measured.pair is not None}
    adjusted = statistics.holm({name: pair.p_value for name, pair in pairs.items()})
    same_model = any(pair.identical and pair.continuous for pair in pairs.values())
    return {
        name: verdicts.conclude(
            pair,
            adjusted[name],
            n=found[name].estimates[TUNED].n,
            higher_is_better=HIGHER_IS_BETTER.get(name, True),
            margin=margin,
            num_metrics=len(pairs),
            same_model=same_model,
        )
        for name, pair in pairs.items()
    }


def summary_to_json(result: EvaluationResult) -> dict[str, Any]:
    """Lay a result out as `evaluation/summary.json` has it."""
    metrics: dict[str, Any] = {}
    for name, metric in result.metrics.items():
        metrics[name] = {model: asdict(estimate) for model, estimate in metric.estimates.items()}
        if metric.comparison is not None:
            metrics[name]["comparison"] = asdict(metric.comparison)
    curves = {model: [asdict(one) for one in bins] for model, bins in result.calibration.items()}
    return {"main_metric": result.main_metric, "metrics": metrics} | ({"calibration": curves} if curves else {})


def summary_from_json(summary: Mapping[str, Any]) -> EvaluationResult:
    """Read back what `summary_to_json` wrote.

    Raises:
        KeyError, TypeError: if the summary has another layout.
    """
    metrics = {
        name: MetricResult(
            estimates={model: Estimate(**values) for model, values in row.items() if model != "comparison"},
            comparison=Comparison(**row["comparison"]) if row.get("comparison") else None,
        )
        for name, row in summary["metrics"].items()
    }
    curves = {
        model: tuple(ReliabilityBin(**one) for one in bins) for model, bins in summary.get("calibration", {}).items()
    }
    return EvaluationResult(main_metric=summary["main_metric"], metrics=metrics, calibration=curves)


def write_items(path: Path, items: Sequence[ItemScore]) -> None:
    """Write the item table, one JSON object a line."""
    lines = (json.dumps(asdict(item), ensure_ascii=False, allow_nan=False) + "\n" for item in items)
    write_text(path, "".join(lines))


def read_items(path: Path) -> list[ItemScore]:
    """Read an item table.

    Raises:
        DataError: if a line is no item, with the line's number.
    """
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            items.append(ItemScore(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}:{number}: no item score; run evaluate again") from error
    return items


def result_lines(result: EvaluationResult) -> list[str]:
    """Lay the result out for the terminal, one aligned line per metric, the main metric first."""
    rows = [_cells(name, metric) for name, metric in result.metrics.items()]
    columns = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]


def format_p(p_value: float) -> str:
    """Such as p=0.013 or p<0.001."""
    return "p<0.001" if p_value < 0.001 else f"p={p_value:.3f}"


def _estimate_text(estimate: Estimate, places: int) -> str:
    if estimate.low == estimate.high:  # one item alone
        return f"{estimate.value:.{places}f} [no interval]"
    return f"{estimate.value:z.{places}f} [{estimate.low:z.{places}f}, {estimate.high:z.{places}f}]"


def _cells(name: str, metric: MetricResult) -> list[str]:
    estimates, comparison = metric.estimates, metric.comparison
    n = max(estimate.n for estimate in estimates.values())
    places = 3 if name in CONTINUOUS else 2
    path = " → ".join(_estimate_text(estimates[model], places) for model in (BASE, TUNED) if model in estimates)
    others = [
        f"{'majority' if model == MAJORITY else model} {estimate.value:.{places}f}"
        for model, estimate in estimates.items()
        if model not in (BASE, TUNED)
    ]
    cells = [name, path, "  ".join(others), "", "", f"(n={n})"]
    if comparison is not None:
        ends = f"[{comparison.low:z.{places}f}, {comparison.high:z.{places}f}]"
        cells[3] = f"{comparison.difference:+z.{places}f} {ends}"
        cells[4] = format_p(comparison.p_value)
        needed = comparison.items_needed
        hint = f", about {needed:,} would tell" if needed else ""
        cells[5] = f"{comparison.verdict.replace('_', ' ')} (n={n}{hint})"
    return cells
