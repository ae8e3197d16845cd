"""The item table, and every number that follows from it: `evaluate` fills it, jobs and the report read it.

`items.jsonl` has one line per item x model x metric; `summarise` needs nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune.config import EvaluationConfig
from finetune.errors import DataError
from finetune.evaluation import statistics
from finetune.evaluation.metrics import BASE, HIGHER_IS_BETTER, MAJORITY, TUNED
from finetune.records import Comparison, Estimate, EvaluationResult, ItemScore, MetricResult
from finetune.run import write_text


def summarise(
    items: Sequence[ItemScore], config: EvaluationConfig, *, seed: int = 0, main_metric: str | None = None
) -> EvaluationResult:
    """Estimate every contestant on every metric and compare tuned with base; p-values are Holm-adjusted over metrics.

    `main_metric` stands first; None takes the first of choice_accuracy, exact_match, bits_per_byte that is there.

    Raises:
        ValueError: if there are no items, or base and tuned do not cover the same ones.
    """
    table: dict[str, dict[str, list[ItemScore]]] = {}
    for item in items:
        table.setdefault(item.metric, {}).setdefault(item.model, []).append(item)
    if not table:
        raise ValueError("no items to summarise")
    main_metric = main_metric or next(name for name in ("choice_accuracy", "exact_match", *table) if name in table)
    names = sorted(table, key=lambda name: name != main_metric)
    samples = config.bootstrap_samples
    pairs = {
        name: statistics.paired_difference(table[name][BASE], table[name][TUNED], samples=samples, seed=seed)
        for name in names
        if BASE in table[name] and TUNED in table[name]
    }
    comparisons = _conclude_all(pairs, config.equivalence_margin)
    return EvaluationResult(
        main_metric=main_metric,
        metrics={
            name: MetricResult(
                estimates={
                    model: statistics.estimate(scores, samples=samples, seed=seed)
                    for model, scores in table[name].items()
                },
                comparison=comparisons.get(name),
            )
            for name in names
        },
    )


def _conclude_all(pairs: Mapping[str, statistics.PairedDifference], margin: float) -> dict[str, Comparison]:
    adjusted = statistics.holm({name: pair.p_value for name, pair in pairs.items()})
    same_model = any(pair.identical and not pair.binary for pair in pairs.values())
    return {
        name: statistics.conclude(
            pair,
            adjusted[name],
            higher_is_better=HIGHER_IS_BETTER.get(name, True),
            margin=margin,
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
    return {"main_metric": result.main_metric, "metrics": metrics}


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
    return EvaluationResult(main_metric=summary["main_metric"], metrics=metrics)


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


def items_needed(n: int, comparison: Comparison) -> int | None:
    """About how many items would make a difference of this size stand out; None if that is already so or hopeless.

    The interval's half-width shrinks with the square root of the number of items.
    """
    half = (comparison.high - comparison.low) / 2
    if comparison.difference == 0 or half <= abs(comparison.difference):
        return None
    return min(1_000_000, round(n * (half / comparison.difference) ** 2))


def format_p(p_value: float) -> str:
    """Such as p=0.013 or p<0.001."""
    return "p<0.001" if p_value < 0.001 else f"p={p_value:.3f}"


def _estimate_text(estimate: Estimate, places: int) -> str:
    if estimate.low == estimate.high:  # one item alone
        return f"{estimate.value:.{places}f} [no interval]"
    return f"{estimate.value:.{places}f} [{estimate.low:.{places}f}, {estimate.high:.{places}f}]"


def _cells(name: str, metric: MetricResult) -> list[str]:
    estimates, comparison = metric.estimates, metric.comparison
    n = max(estimate.n for estimate in estimates.values())
    places = 3 if name == "bits_per_byte" else 2
    path = " → ".join(_estimate_text(estimates[model], places) for model in (BASE, TUNED) if model in estimates)
    others = [
        f"{'majority' if model == MAJORITY else model} {estimate.value:.{places}f}"
        for model, estimate in estimates.items()
        if model not in (BASE, TUNED)
    ]
    cells = [name, path, "  ".join(others), "", "", f"(n={n})"]
    if comparison is not None:
        ends = f"[{comparison.low:.{places}f}, {comparison.high:.{places}f}]"
        cells[3] = f"{comparison.difference:+.{places}f} {ends}"
        cells[4] = format_p(comparison.p_value)
        needed = items_needed(n, comparison) if comparison.verdict == "not_enough_data" else None
        hint = f", about {needed:,} would show a difference of this size" if needed else ""
        cells[5] = f"{comparison.verdict.replace('_', ' ')} (n={n}{hint})"
    return cells
