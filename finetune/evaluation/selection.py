"""Which test rows are scored, with which metrics, and which metric the verdict rests on; `evaluate` calls this."""

import random
from collections.abc import Sequence

from finetune.config import METRICS
from finetune.errors import ConfigError, DataError
from finetune.evaluation.metrics import MAJORITY, majority_class, normalise_answer
from finetune.records import Conversation, ItemScore

SHORT_ANSWER_CHARACTERS = 200
"""Longer answers are seldom reproduced word for word: `auto` leaves exact_match out."""
MAX_CLASSES = 20
"""Up to so many different answers are classes; more are free text."""
MAX_CLASS_SHARE = 0.2
"""Different answers per row, at most, for exact_match to carry the verdict."""


def select_metrics(requested: Sequence[str], conversations: Sequence[Conversation]) -> list[str]:
    """Names of the metrics to measure; `auto` stands for all that the rows support.

    Raises:
        ConfigError: if a metric is named that is unknown, or that the rows cannot have.
        DataError: if there are no rows.
    """
    if not conversations:
        raise DataError("the test split has no rows; set data.test_path or a larger data.test_share")
    chosen, problems = set[str](), list[str]()
    for name in requested:
        if name == "auto":
            chosen.update(metric for metric in METRICS if _reason_against(metric, conversations, auto=True) is None)
        elif reason := _reason_against(name, conversations, auto=False):
            problems.append(f"evaluation.metrics: {name} cannot be measured: {reason}")
        else:
            chosen.add(name)
    if problems:
        raise ConfigError("; ".join(problems) + "; use evaluation.metrics=[auto]")
    return [metric for metric in METRICS if metric in chosen]


def _reason_against(metric: str, conversations: Sequence[Conversation], *, auto: bool) -> str | None:
    if metric == "choice_accuracy" and not any(len(row.options) > 1 for row in conversations):
        return "no test row has options to choose from (data.format=choices)"
    if metric == "exact_match":
        if any(row.text is not None for row in conversations):
            return "the test rows are plain text, with no answer to match"
        if any(row.messages[-1].tool_calls for row in conversations):
            return "some answers are tool calls, which have no one wording"
        longest = max(len(row.answer) for row in conversations)
        if auto and longest > SHORT_ANSWER_CHARACTERS:
            return f"an answer has {longest} characters"
    if metric not in METRICS:
        return f"there is no such metric; known: {', '.join(METRICS)}"
    return None


def main_metric(metrics: Sequence[str], conversations: Sequence[Conversation]) -> str:
    """The metric that the verdict rests on.

    choice_accuracy; else exact_match where the answers are a small closed set (at most 20 different ones, each standing
    for 5 rows or more on average); else bits_per_byte; else the first.
    """
    if "choice_accuracy" in metrics:
        return "choice_accuracy"
    num_classes = len({normalise_answer(row.answer) for row in conversations})
    if "exact_match" in metrics and num_classes <= min(MAX_CLASSES, MAX_CLASS_SHARE * len(conversations)):
        return "exact_match"
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
    count as classes. bits_per_byte has no such baseline.
    """
    items: list[ItemScore] = []
    for metric in metrics:
        rows = [row for row in conversations if metric != "choice_accuracy" or len(row.options) > 1]
        answers = [normalise_answer(row.answer) for row in rows]
        if metric == "bits_per_byte" or len(set(answers)) > MAX_CLASSES:
            continue
        majority = majority_class(answers)
        for row, answer in zip(rows, answers, strict=True):
            value = float(answer == majority)
            items.append(
                ItemScore(item_id=row.item_id, cluster_id=row.cluster, model=MAJORITY, metric=metric, value=value)
            )
    return items
