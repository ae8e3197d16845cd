"""The verdict in plain sentences for people who do not read statistics; the report, the card and the jobs use it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune.evaluation.metrics import BASE, MAJORITY, TUNED
from finetune.records import Estimate, EvaluationResult, MetricResult

METRIC_NAMES = {
    "choice_accuracy": ("Right choice", "share of questions whose right answer the model finds most probable"),
    "choice_accuracy_normalised": (
        "Right choice, by length",
        "the same with the log-probability divided by the answer's bytes, which favours long answers",
    ),
    "calibration_error": (
        "Calibration error",
        "how far the model's confidence in its choices is from the share that is right; lower is better",
    ),
    "exact_match": ("Exact answer", "share of questions that the model answers word for word as expected"),
    "normalised_match": (
        "Same words",
        "share of questions answered as expected, case, punctuation and articles aside",
    ),
    "token_f1": ("Words in common (F1)", "how far the words of the answer and of the expected answer are the same"),
    "rouge_l": ("Words in order (ROUGE-L)", "how far the same words stand in the same order"),
    "json_field_accuracy": ("Right fields", "share of the fields of a JSON answer that are as expected"),
    "pass_at_1": ("Code passes", "share of programming tasks whose unit tests the model's function passes"),
    **{
        f"pass_at_{k}": (f"Code passes in {k} tries", f"chance that one of {k} drawn answers passes the unit tests")
        for k in (5, 10, 100)
    },
    "bits_per_byte": (
        "Bits per byte",
        "how many bits the model needs to predict a byte of unseen text; lower is better",
    ),
}
"""Name for people, and what it means."""

VERDICT_NAMES = {
    "better": "Better",
    "worse": "Worse",
    "equivalent": "No difference",
    "not_enough_data": "Not enough data",
    "unknown": "Not evaluated",
}

EXAMPLE_TITLES = {
    "lost": "Lost: the base model did better",
    "won": "Won: the tuned model does better",
    "both right": "Both right",
    "neither right": "Neither right",
    "unchanged": "About the same",
}
"""Headings of the examples by kind."""

_HEADLINES = {
    "better": "Tuning helped: {scores}.",
    "worse": "Tuning did harm: {scores}.",
    "equivalent": "Tuning made no practical difference: {scores}.",
    "not_enough_data": "This test is too small to tell whether tuning helped: {scores}; "
    "a difference of this size could be chance.",
}


MANY_FILES = 4
"""More exported files are counted, not named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """The verdict of the main metric: its code, one sentence that says it, and sentences that qualify it."""

    verdict: str
    headline: str
    remarks: tuple[str, ...]


def explain(result: EvaluationResult | None) -> Explanation:
    """Say what the evaluation found, in one sentence and a few remarks."""
    metric = None if result is None else result.metrics.get(result.main_metric)
    if result is None or metric is None or metric.comparison is None:
        return Explanation(
            verdict="unknown",
            headline="Whether tuning helped is not known: base and tuned model have not been compared.",
            remarks=(),
        )
    deciding = _deciding(result)
    metric = result.metrics[deciding]
    verdict = metric.comparison.verdict if metric.comparison else "unknown"
    headline = _HEADLINES[verdict].format(scores=_scores(deciding, metric))
    remarks = [*_range(deciding, metric), *_majority(metric), *_other_verdicts(result, deciding)]
    return Explanation(verdict=verdict, headline=headline, remarks=tuple(remarks))


def _deciding(result: EvaluationResult) -> str:
    """The main metric; where it cannot tell, the first that shows harm, unless another shows a gain.

    Calibration is not asked: a model that knows nothing and says so is well calibrated.
    """
    verdicts = {
        name: metric.comparison.verdict
        for name, metric in result.metrics.items()
        if metric.comparison and (name != "calibration_error" or name == result.main_metric)
    }
    if verdicts[result.main_metric] != "not_enough_data" or "better" in verdicts.values():
        return result.main_metric
    return next((name for name, verdict in verdicts.items() if verdict == "worse"), result.main_metric)


def explain_verification(verification: Mapping[str, Any]) -> str:
    """Say in one sentence whether the exported files are the model that was evaluated."""
    if not verification:
        return "No exported file has been verified."
    failed = [name for name, found in verification.items() if not (isinstance(found, Mapping) and found.get("passed"))]
    if failed:
        return (
            f"Do not use the exported files ({', '.join(failed)}): they do not behave like the model that was trained."
        )
    names = ", ".join(verification) if len(verification) <= MANY_FILES else f"{len(verification)} of them"
    return f"The exported files ({names}) were loaded again and behave like the model that was trained."


def percent(share: float) -> str:
    """Write a share in whole per cent, but never round to 0 % or 100 % what is neither."""
    if 0 < share < 0.005 or 0.995 <= share < 1:
        return f"{100 * share:.1f} %"
    return f"{math.floor(100 * share + 0.5)} %"


def format_value(metric: str, value: float, *, signed: bool = False) -> str:
    """Write a metric's value: shares in per cent (differences in points), bits with three decimals."""
    sign = "+" if signed and value >= 0 else "−" if value < 0 else ""
    if metric == "bits_per_byte":
        return f"{sign}{abs(value):.3f}"
    return f"{sign}{100 * abs(value):.1f}" + (" points" if signed else " %")


def format_interval(metric: str, low: float, high: float, *, signed: bool = False) -> str:
    """Write an interval, such as `64.1 to 77.0`; a single cluster of items has none."""
    if low == high and not signed:
        return "no interval"
    ends = (format_value(metric, end, signed=signed) for end in (low, high))
    return " to ".join(end.removesuffix(" %").removesuffix(" points") for end in ends)


def _scores(name: str, metric: MetricResult) -> str:
    base, tuned = metric.estimates[BASE], metric.estimates[TUNED]
    if name == "bits_per_byte":
        change = (tuned.value - base.value) / base.value if base.value else 0.0
        word = "fewer" if change <= 0 else "more"
        return (
            f"the tuned model needs {tuned.value:.3f} bits to predict a byte of {_count(tuned, 'unseen text')}, "
            f"the base model {base.value:.3f} ({percent(abs(change))} {word}; less is better)"
        )
    if name in _DOES:
        return (
            f"the tuned model {_DOES[name]} {percent(tuned.value)} of {_count(tuned, 'test question')}, "
            f"the base model to {percent(base.value)}"
        )
    return (
        f"{_spoken(name)}: {percent(tuned.value)} with the tuned model over "
        f"{_count(tuned, 'test question')}, {percent(base.value)} with the base model"
    )


_DOES = {
    "choice_accuracy": "picks the right answer to",
    "choice_accuracy_normalised": "picks, by length, the right answer to",
    "exact_match": "gives exactly the expected answer to",
    "normalised_match": "gives the expected words to",
    "pass_at_1": "gives working code in answer to",
}


def _count(estimate: Estimate, noun: str) -> str:
    return f"{estimate.n} {noun}{'' if estimate.n == 1 else 's'}"


def _range(name: str, metric: MetricResult) -> list[str]:
    comparison = metric.comparison
    if comparison is None:
        return []
    unit = " bits per byte" if name == "bits_per_byte" else ""
    difference = format_value(name, comparison.difference, signed=True).replace("points", "percentage points")
    interval = format_interval(name, comparison.low, comparison.high, signed=True).replace(" to ", " and ")
    remarks = [f"The difference is {difference}{unit}; with 95 % confidence it lies between {interval}."]
    if comparison.items_needed:
        remarks.append(f"About {comparison.items_needed:,} test items would tell.")
    return remarks


def _majority(metric: MetricResult) -> list[str]:
    majority = metric.estimates.get(MAJORITY)
    if majority is None:
        return []
    share = f"Always giving the most frequent answer would be right in {percent(majority.value)}"
    if metric.estimates[TUNED].low <= majority.value:
        return [f"{share}: that the tuned model has learnt more than this is not shown."]
    return [f"{share}."]


def _other_verdicts(result: EvaluationResult, deciding: str) -> list[str]:
    decided = result.metrics[deciding].comparison
    remarks: list[str] = []
    if deciding != result.main_metric:
        remarks.append(f"Measured by {_spoken(result.main_metric)}, this test is too small to tell.")
    return remarks + [
        f"Measured by {_spoken(name)}, it became {metric.comparison.verdict}."
        for name, metric in result.metrics.items()
        if metric.comparison is not None
        and metric.comparison.verdict in ("better", "worse")
        and (decided is None or metric.comparison.verdict != decided.verdict)
    ]


def _spoken(metric: str) -> str:
    name = METRIC_NAMES.get(metric, (metric, ""))[0]
    return name[0].lower() + name[1:]
