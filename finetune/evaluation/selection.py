"""Which test rows are scored, with which metrics, and which metric the verdict rests on; `evaluate` calls this."""

import random
from collections.abc import Callable, Sequence
from statistics import median

from finetune.config import METRICS
from finetune.errors import ConfigError, DataError
from finetune.evaluation.metrics import (
    ANSWER_METRICS,
    CHOICE_CONFIDENCE,
    CHOICE_METRICS,
    CODE_METRICS,
    MAJORITY,
    exact_match,
    majority_class,
    normalise_answer,
)
from finetune.evaluation.text_metrics import json_field_accuracy, json_object, normalised_match, rouge_l, token_f1
from finetune.records import Conversation, ItemScore

SHORT_ANSWER_CHARACTERS = 200
"""Where one is longer, `auto` lets no model write answers: that takes long, and `max_new_tokens` would cut them."""
VARIANTS = ("choice_accuracy_normalised", "normalised_match")
"""Second views of what another metric says; `auto` leaves them out: each metric makes the others' tests stricter."""
SEVERAL_WORDS = 3
"""`auto` takes token_f1 and rouge_l where the median answer has so many words; of fewer, exact_match says the same."""
MAX_CLASSES = 20
"""Up to so many different answers are classes; more are free text."""
MAX_CLASS_SHARE = 0.2
"""Different answers per row, at most, for exact_match to carry the verdict."""


def select_metrics(
    requested: Sequence[str], conversations: Sequence[Conversation], *, run_code: bool = False
) -> list[str]:
    """Names of the metrics to measure; `auto` stands for all that the rows support (`_reason_against`).

    calibration_error brings choice_accuracy with it, of which it is made. `run_code` lets `auto` take pass_at_1.

    Raises:
        ConfigError: if a metric is named that is unknown, or that the rows cannot have.
        DataError: if there are no rows.
    """
    if not conversations:
        raise DataError("the test split has no rows; set data.test_path or a larger data.test_share")
    chosen, problems = set[str](), list[str]()
    for name in requested:
        if name == "auto":
            known = [metric for metric in METRICS if metric not in CODE_METRICS or (run_code and metric == "pass_at_1")]
            chosen.update(metric for metric in known if _reason_against(metric, conversations, auto=True) is None)
        elif reason := _reason_against(name, conversations, auto=False):
            problems.append(f"evaluation.metrics: {name} cannot be measured: {reason}")
        else:
            chosen.add(name)
    if problems:
        raise ConfigError("; ".join(problems) + "; use evaluation.metrics=[auto]")
    if "calibration_error" in chosen:
        chosen.add("choice_accuracy")
    return [metric for metric in METRICS if metric in chosen]


def metrics_of(items: Sequence[ItemScore]) -> list[str]:
    """Names of the metrics that an item table holds."""
    found = {"calibration_error" if item.metric == CHOICE_CONFIDENCE else item.metric for item in items}
    return [*(metric for metric in METRICS if metric in found), *sorted(found.difference(METRICS))]


def _reason_against(metric: str, conversations: Sequence[Conversation], *, auto: bool) -> str | None:
    if auto and metric in VARIANTS:
        return "it is a variant of another metric"
    if metric in CHOICE_METRICS and not any(len(row.options) > 1 for row in conversations):
        return "no test row has options to choose from (data.format=choices)"
    if metric in ANSWER_METRICS and (reason := _reason_against_answers(metric, conversations, auto=auto)):
        return reason
    if metric in CODE_METRICS and not any(row.tests for row in conversations):
        return "no test row has unit tests (a column tests, test_list or test with assert statements)"
    if metric not in METRICS:
        return f"there is no such metric; known: {', '.join(METRICS)}"
    return None


def _reason_against_answers(metric: str, conversations: Sequence[Conversation], *, auto: bool) -> str | None:
    if any(row.text is not None for row in conversations):
        return "the test rows are plain text, with no answer to match"
    if any(row.messages[-1].tool_calls for row in conversations):
        return "some answers are tool calls, which have no one wording"
    longest = max(len(row.answer) for row in conversations)
    if auto and longest > SHORT_ANSWER_CHARACTERS:
        return f"an answer has {longest} characters"
    few_words = median(len(row.answer.split()) for row in conversations) < SEVERAL_WORDS
    if auto and metric in ("token_f1", "rouge_l") and few_words:
        return "the answers are single words or nearly so"
    if metric == "json_field_accuracy":
        objects = [json_object(row.answer) is not None for row in conversations]
        if not any(objects):
            return "no answer of the test rows is a JSON object"
        if auto and not all(objects):
            return "some answers are no JSON objects"
    return None


def main_metric(metrics: Sequence[str], conversations: Sequence[Conversation]) -> str:
    """The metric that the verdict rests on.

    pass_at_1, for which code has to be allowed to run; else choice_accuracy; else exact_match where the answers are a
    small closed set (at most 20 different ones, each standing for 5 rows or more on average); else json_field_accuracy
    where all answers are JSON objects; else bits_per_byte; else the first.
    """
    for metric in ("pass_at_1", "choice_accuracy"):
        if metric in metrics:
            return metric
    num_classes = len({normalise_answer(row.answer) for row in conversations})
    if "exact_match" in metrics and num_classes <= min(MAX_CLASSES, MAX_CLASS_SHARE * len(conversations)):
        return "exact_match"
    if "json_field_accuracy" in metrics and all(json_object(row.answer) is not None for row in conversations):
        return "json_field_accuracy"
    return "bits_per_byte" if "bits_per_byte" in metrics else metrics[0]


def choose_items(conversations: Sequence[Conversation], max_items: int, seed: int) -> list[Conversation]:
    """Draw at most `max_items` rows; the same rows for the same seed, in their own order."""
    if len(conversations) <= max_items:
        return list(conversations)
    drawn = random.Random(seed).sample(range(len(conversations)), max_items)
    return [conversations[index] for index in sorted(drawn)]


def majority_scores(conversations: Sequence[Conversation], metrics: Sequence[str]) -> list[ItemScore]:
    """Score the constant answer that is most frequent among the test rows' own labels, where there are classes.

    It is a floor that any useful model must clear, computed with knowledge no model has; at most 20 different answers
    count as classes. Bits per byte and the calibration error have no such baseline.
    """
    items: list[ItemScore] = []
    for metric in metrics:
        rows = [row for row in conversations if _has_baseline(row, metric)]
        classes = {normalise_answer(row.answer) for row in rows}
        if metric not in _MAJORITY_SCORES or not 0 < len(classes) <= MAX_CLASSES:
            continue
        majority = majority_class([row.answer for row in rows])
        for row in rows:
            value = _MAJORITY_SCORES[metric](majority, row.answer)
            items.append(
                ItemScore(item_id=row.item_id, cluster_id=row.cluster, model=MAJORITY, metric=metric, value=value)
            )
    return items


def _has_baseline(row: Conversation, metric: str) -> bool:
    if metric in CHOICE_METRICS:
        return len(row.options) > 1
    return metric != "json_field_accuracy" or json_object(row.answer) is not None


_MAJORITY_SCORES: dict[str, Callable[[str, str], float]] = {
    "choice_accuracy": exact_match,
    "choice_accuracy_normalised": exact_match,
    "exact_match": exact_match,
    "normalised_match": normalised_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
    "json_field_accuracy": json_field_accuracy,
}
