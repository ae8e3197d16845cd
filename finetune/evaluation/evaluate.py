"""Base against tuned model on the test split: chooses metrics and items, scores every contestant, hands out the table.

Called by the run and evaluate jobs. `passes` ask the models, `summary` turns the table into the numbers; its functions
are importable here too.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from finetune.config import EvaluationConfig
from finetune.evaluation.fitting import fitting_rows
from finetune.evaluation.passes import PASSES, Subject
from finetune.evaluation.selection import choose_items, main_metric, majority_scores, select_metrics
from finetune.evaluation.summary import (
    read_items,
    result_lines,
    summarise,
    summary_from_json,
    summary_to_json,
    write_items,
)
from finetune.records import Conversation, EvaluationResult, ItemScore

__all__ = [
    "choose_items",
    "evaluate",
    "main_metric",
    "read_items",
    "result_lines",
    "score_contestant",
    "select_metrics",
    "summarise",
    "summary_from_json",
    "summary_to_json",
    "write_items",
]

Contestants = Mapping[str, Callable[[], AbstractContextManager[Any]]]


def evaluate(
    contestants: Contestants,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    config: EvaluationConfig,
    seed: int,
    *,
    max_length: int,
) -> tuple[list[ItemScore], EvaluationResult]:
    """Score every contestant on the same rows and compare `tuned` with `base`.

    `contestants` maps a name to a function whose context yields the model; base may be
    `with peft_model.disable_adapter()`. `max_length` is the longest input in tokens: longer texts are scored
    in windows, the prompts of longer chats are shortened as they are in training.

    Raises:
        ConfigError: if a metric is asked for that the rows cannot have.
        DataError: if no row is left to score.
        ModelError: if a model answers with something that is no number.
    """
    rows = choose_items(conversations, config.max_items, seed)
    metrics = select_metrics(config.metrics, rows, run_code=config.run_code)
    rows = fitting_rows(rows, tokenizer, max_length)
    items: list[ItemScore] = []
    for name, opened in contestants.items():
        with opened() as model:
            items += score_contestant(name, model, tokenizer, rows, config, metrics, max_length=max_length)
    items += majority_scores(rows, metrics)
    return items, summarise(items, config, seed=seed, main_metric=main_metric(metrics, rows))


def score_contestant(
    name: str,
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Conversation],
    config: EvaluationConfig,
    metrics: Sequence[str],
    *,
    max_length: int,
    progress: bool = True,
) -> list[ItemScore]:
    """Score one model on rows that can be scored (`fitting_rows`) for each of `metrics`.

    Raises:
        ModelError: if a log-probability is no number.
    """
    subject = Subject(
        name=name, model=model, tokenizer=tokenizer, config=config, max_length=max_length, progress=progress
    )
    return [
        item
        for served, run in PASSES
        if (wanted := [metric for metric in metrics if metric in served])
        for item in run(subject, conversations, wanted)
    ]
