"""Base against tuned model on the test split: chooses metrics and items, scores every contestant, hands out the table.

Called by the run and evaluate jobs. `summary` turns the table into the numbers; its functions are importable here too.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from finetune.config import EvaluationConfig
from finetune.data.tokenize import fit, tokenize_conversation
from finetune.errors import ModelError
from finetune.evaluation import metrics as measures
from finetune.evaluation import scorers
from finetune.evaluation.fitting import fitting_rows, option_examples, prompt_ids
from finetune.evaluation.selection import choose_items, main_metric, majority_scores, select_metrics
from finetune.evaluation.summary import (
    read_items,
    result_lines,
    summarise,
    summary_from_json,
    summary_to_json,
    write_items,
)
from finetune.records import Conversation, EvaluationResult, Example, ItemScore

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
    metrics = select_metrics(config.metrics, rows)
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
    subject = _Subject(
        name=name, model=model, tokenizer=tokenizer, config=config, max_length=max_length, progress=progress
    )
    items: list[ItemScore] = []
    for metric in metrics:
        for row, value, weight in _SCORERS[metric](subject, conversations):
            items.append(
                ItemScore(
                    item_id=row.item_id, cluster_id=row.cluster, model=name, metric=metric, value=value, weight=weight
                )
            )
    return items


@dataclass(frozen=True, kw_only=True, slots=True)
class _Subject:
    """The model under test and all that scoring it needs."""

    name: str
    model: Any
    tokenizer: Any
    config: EvaluationConfig
    max_length: int
    progress: bool

    def log_probabilities(self, examples: Sequence[Example], what: str) -> list[float]:
        pad = self.tokenizer.pad_token_id
        scores = scorers.score_examples(
            self.model,
            examples,
            batch_tokens=self.config.batch_tokens,
            pad_token_id=0 if pad is None else pad,
            progress=self.label(what),
        )
        for example, score in zip(examples, scores, strict=True):
            if not math.isfinite(score.log_probability_nats):
                raise ModelError(
                    f"the {self.name} model gives {score.log_probability_nats} as the log-probability of test row "
                    f"{example.item_id}; its weights or its number type (model.dtype) are broken"
                )
        return [score.log_probability_nats for score in scores]

    def label(self, what: str) -> str | None:
        return f"{self.name}: {what}" if self.progress else None


_Scores = Iterable[tuple[Conversation, float, float]]
"""Row, value, weight."""


def _bits_per_byte(subject: _Subject, rows: Sequence[Conversation]) -> _Scores:
    window = min(subject.max_length, subject.config.batch_tokens)  # every token of a text needs its logits
    parts = [fit(row, subject.tokenizer, subject.max_length if row.messages else window) for row in rows]
    flat = iter(subject.log_probabilities([part for group in parts for part in group], "bits per byte"))
    for row, group in zip(rows, parts, strict=True):
        total = math.fsum(next(flat) for _ in group)
        num_bytes = sum(part.num_supervised_bytes for part in group)
        yield row, measures.bits_per_byte(total, num_bytes), float(num_bytes)


def _choice_accuracy(subject: _Subject, rows: Sequence[Conversation]) -> _Scores:
    rows = [row for row in rows if len(row.options) > 1]
    examples = [example for row in rows for example in option_examples(row, subject.tokenizer, subject.max_length)]
    flat = iter(subject.log_probabilities(examples, "choices"))
    for row in rows:
        chosen = measures.choose_option([next(flat) for _ in row.options])
        yield row, float(row.options[chosen] == row.answer), 1.0


def _exact_match(subject: _Subject, rows: Sequence[Conversation]) -> _Scores:
    max_new_tokens = subject.config.max_new_tokens
    room = max(min(subject.max_length, scorers.context_of(subject.model) - max_new_tokens), subject.max_length // 2)
    examples = [tokenize_conversation(row, subject.tokenizer, last_turn_only=True) for row in rows]
    answers = scorers.generate_greedy(
        subject.model,
        subject.tokenizer,
        [prompt_ids(row, subject.tokenizer, int(room)) for row in rows],
        max_new_tokens=max_new_tokens,
        batch_tokens=subject.config.batch_tokens,
        eos_token_ids=scorers.end_of_turn_ids(subject.model, subject.tokenizer, examples),
        progress=subject.label("answers"),
    )
    for row, answer in zip(rows, answers, strict=True):
        yield row, measures.exact_match(answer, row.answer), 1.0


_SCORERS: dict[str, Callable[[_Subject, Sequence[Conversation]], _Scores]] = {
    "bits_per_byte": _bits_per_byte,
    "choice_accuracy": _choice_accuracy,
    "exact_match": _exact_match,
}
