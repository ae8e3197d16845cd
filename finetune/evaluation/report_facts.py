"""Tables of the report, as plain rows for its templates: one small function for each part of the page."""

import math
import statistics as averages
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from finetune.data.privacy import measured_recall
from finetune.evaluation import wording
from finetune.evaluation.metrics import BASE, MAJORITY, TUNED
from finetune.evaluation.run_record import RunRecord
from finetune.evaluation.summary import format_p
from finetune.log import megabytes
from finetune.records import Estimate, MetricResult

MAX_LISTED_ITEMS = 12

CONTESTANT_NAMES = {BASE: "Base", TUNED: "Tuned", MAJORITY: "Most frequent answer"}

Facts = list[tuple[str, str]]


def metric_results(record: RunRecord) -> dict[str, MetricResult]:
    """The metrics that were measured, the main metric first."""
    return {} if record.result is None else record.result.metrics


def method(config: Mapping[str, Any]) -> str:
    """Adapter and precision in words, such as `LoRA of rank 16 on a 4-bit (NF4) base`; "" if unknown."""
    adapter, base = get(config, "adapter", "method"), get(config, "quantization", "method")
    if not adapter:
        return ""
    names = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA"}
    held = {"nf4": " on a 4-bit (NF4) base", "int8": " on an 8-bit base"}.get(str(base), "")
    return f"{names.get(str(adapter), adapter)} of rank {get(config, 'adapter', 'rank')}{held}"


def contestants(record: RunRecord) -> list[tuple[str, str]]:
    """Contestants beside the two sides of the comparison and the exported files: code and name."""
    found = [name for metric in metric_results(record).values() for name in metric.estimates]
    elsewhere = {BASE, TUNED, *record.verification}
    return [(name, CONTESTANT_NAMES.get(name, name)) for name in dict.fromkeys(found) if name not in elsewhere]


def export_rows(record: RunRecord) -> list[dict[str, Any]]:
    """One row per exported file: what a reader compares files by."""
    main = record.result.metrics[record.result.main_metric] if record.result is not None else None
    rows: list[dict[str, Any]] = []
    for name, found in record.verification.items():
        estimate = main.estimates.get(name) if main is not None else None
        shown: dict[str, Any] = {"name": name, "passed": passed(found), "task": None}
        if estimate is not None and record.result is not None:
            shown["task"] = (*estimate_cell(record.result.main_metric, estimate), estimate.n)
        size = number(get(found, "num_bytes"))
        shown["size"] = megabytes(size) if size else "–"
        agreement = "top1_agreement" if get(found, "clear_agreement") is None else "clear_agreement"
        for key, source, style in (
            ("kl", "kl_mean", "{:.1e}"),
            ("kl_p99", "kl_p99", "{:.1e}"),
            ("agreement", agreement, "{:.1%}"),
            ("greedy", "greedy_match", "{:.1%}"),
            ("speed", "tokens_per_second", "{:,.0f}"),
        ):
            shown[key] = _styled(get(found, source), style) or "–"
        rows.append(shown)
    return rows


def result_rows(record: RunRecord) -> list[dict[str, Any]]:
    """One row per metric: names, the contestants' values and intervals, the comparison, the verdict."""
    rows: list[dict[str, Any]] = []
    for name, metric in metric_results(record).items():
        title, meaning = wording.METRIC_NAMES.get(name, (name, ""))
        row: dict[str, Any] = {"code": name, "name": title, "meaning": meaning, "verdict": "unknown"}
        row["cells"] = {model: estimate_cell(name, estimate) for model, estimate in metric.estimates.items()}
        row["n"] = max(estimate.n for estimate in metric.estimates.values())
        if comparison := metric.comparison:
            ends = wording.format_interval(name, comparison.low, comparison.high, signed=True)
            row["verdict"] = comparison.verdict
            row["difference"] = (wording.format_value(name, comparison.difference, signed=True), ends)
            raw = comparison.raw_p_value
            row["p"] = format_p(comparison.p_value) + (
                f" (raw {format_p(raw)[1:].lstrip('=')})" if raw is not None else ""
            )
        rows.append(row)
    return rows


def estimate_cell(metric: str, estimate: Estimate) -> tuple[str, str]:
    """Value and interval in words."""
    return (
        wording.format_value(metric, estimate.value),
        wording.format_interval(metric, estimate.low, estimate.high),
    )


def flips(record: RunRecord) -> dict[str, Any]:
    """Items of a 0/1 main metric by what tuning changed, and the first that it lost; {} for other metrics."""
    if record.result is None:
        return {}
    values: dict[str, dict[str, float]] = {BASE: {}, TUNED: {}}
    for item in record.items:
        if item.metric == record.result.main_metric and item.model in values:
            values[item.model][item.item_id] = item.value
    pairs = {name: (base, values[TUNED][name]) for name, base in values[BASE].items() if name in values[TUNED]}
    if not pairs or not {value for pair in pairs.values() for value in pair} <= {0.0, 1.0}:
        return {}
    lost = [name for name, (base, tuned) in pairs.items() if base > tuned]
    return {
        "both": sum(base == tuned == 1 for base, tuned in pairs.values()),
        "gained": sum(tuned > base for base, tuned in pairs.values()),
        "lost": len(lost),
        "neither": sum(base == tuned == 0 for base, tuned in pairs.values()),
        "lost_items": lost[:MAX_LISTED_ITEMS],
    }


def training_facts(record: RunRecord) -> Facts:
    """Length, losses, memory and speed of the training, as far as metrics.jsonl has them."""
    if not record.steps:
        return []
    last = record.steps[-1]
    validation = [(number(row.get("step")), number(row.get("validation_loss"))) for row in record.steps]
    measured = [(step, loss) for step, loss in validation if step is not None and loss is not None]
    facts: list[tuple[str, str | None]] = [
        ("Optimizer steps", count(last.get("step"))),
        ("Passes over the data", _decimals(last.get("epoch"), 2)),
        ("Tokens seen", count(_largest(record.steps, "tokens"))),
        ("Validation loss before tuning", _decimals(measured[0][1], 3) if measured else None),
    ]
    if len(measured) > 1:
        step, loss = min(measured, key=lambda pair: pair[1])
        facts.append(("Best validation loss", f"{loss:.3f} at step {step:,.0f}"))
    speeds = [speed for row in record.steps if (speed := number(row.get("tokens_per_second")))]
    facts.append(("Tokens per second", count(averages.median(speeds)) if speeds else None))
    peak = _largest(record.steps, "peak_memory_bytes")
    facts.append(("Peak memory", megabytes(peak) if peak else None))
    return [(name, text) for name, text in facts if text is not None]


def ledger_facts(ledger: Mapping[str, Any]) -> Facts:
    """What the data set held and what was used of it."""
    paths = (
        ("Rows read", ("rows_in",)),
        ("Rows used", ("rows_used",)),
        ("Training items", ("splits", "train")),
        ("Validation items", ("splits", "validation")),
        ("Test items", ("splits", "test")),
        ("Tokens", ("tokens", "total")),
        ("Tokens with loss", ("tokens", "supervised")),
        ("Answer tokens cut off", ("tokens", "truncated")),
        ("Rows with a cut answer", ("truncated_rows",)),
        ("Prompts shortened", ("shortened_prompts",)),
        ("Long answers continued", ("continued_answers",)),
        ("Rows repeated across splits", ("duplicates", "across_splits")),
        ("Related rows kept together", ("related_rows",)),
    )
    found = [(name, text) for name, path in paths if (text := count(get(ledger, *path))) is not None]
    share = number(ledger.get("end_token_supervised_share"))
    return [*found, ("Rows that teach where to stop", f"{100 * share:.1f} %")] if share is not None else found


def rejected_rows(ledger: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reasons with their counts, largest first, and the first examples of each."""
    examples = ledger.get("examples")
    kept = examples if isinstance(examples, Mapping) else {}
    reasons = ledger.get("rejected")
    found = reasons.items() if isinstance(reasons, Mapping) else []
    rows = [(str(reason), number(value) or 0.0) for reason, value in found]
    return [
        {
            "reason": reason.replace("_", " "),
            "count": f"{value:,.0f}",
            "examples": [entry for entry in kept.get(reason, []) if isinstance(entry, Mapping)],
        }
        for reason, value in sorted(rows, key=lambda row: -row[1])
        if value
    ]


def personal_rows(ledger: Mapping[str, Any]) -> list[dict[str, str]]:
    """Kinds of personal data found, largest first, with the share of each kind that the search found in a test."""
    recall = measured_recall()
    found = counted(ledger.get("pii"))
    shares = {kind.replace("_", " "): share for kind, share in recall.items()}
    return [
        {"kind": kind, "count": count, "recall": f"{100 * shares[kind]:.0f} %" if kind in shares else "not measured"}
        for kind, count in found
    ]


def overlap_rows(ledger: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sets of items that were looked for in the training rows, with what was found."""
    sets = ledger.get("contamination")
    return [
        {"name": "test items" if name == "test" else PurePath(str(name)).name, **entry}
        for name, entry in (sets.items() if isinstance(sets, Mapping) else [])
        if isinstance(entry, Mapping)
    ]


def length_bars(ledger: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Rows by length in tokens: upper end of the bin, count, and its share of the largest bin in percent."""
    lengths = ledger.get("lengths")
    found = lengths.items() if isinstance(lengths, Mapping) else []
    bins = [(str(end), number(value) or 0.0) for end, value in found]
    most = max((value for _, value in bins), default=0.0)
    return [(end, f"{value:,.0f}", round(100 * value / most, 1)) for end, value in bins if most]


def counted(values: Any) -> Facts:
    """A mapping of counts without its zeros, largest first, with codes as words."""
    found = values.items() if isinstance(values, Mapping) else []
    rows = [(str(name).replace("_", " "), number(value) or 0.0) for name, value in found]
    return [(name, f"{value:,.0f}") for name, value in sorted(rows, key=lambda row: -row[1]) if value]


def verification_rows(verification: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per exported format."""
    return [
        {
            "name": name,
            "passed": passed(found),
            "reason": get(found, "reason") or "",
            "facts": [
                (label, text)
                for label, key, style in (
                    ("Largest logit difference", "max_abs_logit_difference", "{:.2g} nats"),
                    ("Mean KL divergence", "kl_mean", "{:.2g} nats"),
                    ("KL divergence, 99th percentile", "kl_p99", "{:.2g} nats"),
                    ("Same most probable token", "top1_agreement", "{:.2%}"),
                    ("Same most probable token, or as probable", "clear_agreement", "{:.2%}"),
                    ("Same greedy tokens", "greedy_match", "{:.2%}"),
                    ("Tokens compared", "num_tokens", "{:,.0f}"),
                    ("Answer tokens that became wrong", "flips_to_wrong", "{:,.0f}"),
                    ("Answer tokens that became right", "flips_to_right", "{:,.0f}"),
                    ("Size in bytes", "num_bytes", "{:,.0f}"),
                    ("Tokens per second in llama.cpp", "tokens_per_second", "{:,.0f}"),
                    ("KL from the 4-bit model that was trained", "quantization_shift_kl_mean", "{:.2g} nats"),
                    ("Tokenizer equal", "tokenizer_match", ""),
                    ("Chat template equal", "template_match", ""),
                )
                if (text := _styled(get(found, key), style)) is not None
            ],
        }
        for name, found in verification.items()
    ]


def passed(found: Any) -> bool:
    """Whether a verification passed; anything but a clear yes is a no."""
    return get(found, "passed") is True


def flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Nested values as (dotted key, text) rows."""
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from flat(f"{prefix}.{key}" if prefix else str(key), inner)
    elif isinstance(value, list):
        yield prefix, ", ".join(map(str, value)) or "none"
    else:
        yield prefix, "not set" if value is None or value == {} else str(value)


def get(mapping: Any, *keys: str) -> Any:
    """Look up a nested value; None where the path ends early."""
    for key in keys:
        mapping = mapping.get(key) if isinstance(mapping, Mapping) else None
    return mapping


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def count(value: Any) -> str | None:
    """A whole number with thousands separated, or None."""
    found = number(value)
    return None if found is None else f"{found:,.0f}"


def _decimals(value: Any, places: int) -> str | None:
    found = number(value)
    return None if found is None else f"{found:.{places}f}"


def _largest(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    return max((value for row in rows if (value := number(row.get(key))) is not None), default=None)


def _styled(value: Any, style: str) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    found = number(value)
    return None if found is None or not style else style.format(found).replace("%", " %")
