"""Runs a model over the test rows once for each kind of question, and scores what it says; `evaluate` calls this.

A pass is one way of asking: log-probabilities of the reference answers, log-probabilities of given options, one greedy
answer. Each serves several metrics at once; a new way of asking is one function here and one line in `PASSES`.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config import EvaluationConfig
from finetune.data.tokenize import fit, tokenize_conversation
from finetune.errors import ModelError
from finetune.evaluation import metrics as measures
from finetune.evaluation import scorers, text_metrics
from finetune.evaluation.fitting import option_examples, prompt_ids
from finetune.records import Conversation, Example, ItemScore

logger = logging.getLogger(__name__)

ANSWER_SCORES: dict[str, Callable[[str, str], float]] = {
    "exact_match": measures.exact_match,
    "normalised_match": text_metrics.normalised_match,
    "token_f1": text_metrics.token_f1,
    "rouge_l": text_metrics.rouge_l,
    "json_field_accuracy": text_metrics.json_field_accuracy,
}
"""What an answer scores against the reference."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """The model under test and all that scoring it needs."""

    name: str
    model: Any
    tokenizer: Any
    config: EvaluationConfig
    max_length: int
    progress: bool

    def log_probabilities(self, examples: Sequence[Example], what: str) -> list[float]:
        """Summed log-probability of each example's answer, in nats.

        Raises:
            ModelError: if one is no number.
        """
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
        """Label of the progress bar; None for none."""
        return f"{self.name}: {what}" if self.progress else None

    def score(self, row: Conversation, metric: str, value: float, weight: float = 1.0) -> ItemScore:
        """Make one line of the item table."""
        return ItemScore(
            item_id=row.item_id, cluster_id=row.cluster, model=self.name, metric=metric, value=value, weight=weight
        )


def reference_pass(subject: Subject, rows: Sequence[Conversation], wanted: Collection[str]) -> Iterator[ItemScore]:
    """Bits per byte of the reference answers, or of whole plain texts in windows."""
    window = min(subject.max_length, subject.config.batch_tokens)  # every token of a text needs its logits
    parts = [fit(row, subject.tokenizer, subject.max_length if row.messages else window) for row in rows]
    flat = iter(subject.log_probabilities([part for group in parts for part in group], "bits per byte"))
    for row, group in zip(rows, parts, strict=True):
        total = math.fsum(next(flat) for _ in group)
        num_bytes = sum(part.num_supervised_bytes for part in group)
        yield subject.score(row, "bits_per_byte", measures.bits_per_byte(total, num_bytes), float(num_bytes))


def choice_pass(subject: Subject, rows: Sequence[Conversation], wanted: Collection[str]) -> Iterator[ItemScore]:
    """Which option is most probable, as a whole and by the byte, and how sure the model is of it."""
    rows = [row for row in rows if len(row.options) > 1]
    examples = [example for row in rows for example in option_examples(row, subject.tokenizer, subject.max_length)]
    flat = iter(subject.log_probabilities(examples, "choices"))
    for row in rows:
        found = [next(flat) for _ in row.options]
        by_byte = measures.per_byte(found, row.options)
        if "choice_accuracy" in wanted:
            yield subject.score(row, "choice_accuracy", _is_right(row, found))
        if "choice_accuracy_normalised" in wanted:
            yield subject.score(row, "choice_accuracy_normalised", _is_right(row, by_byte))
        if "calibration_error" in wanted:
            yield subject.score(row, measures.CHOICE_CONFIDENCE, measures.confidence(found))


def _is_right(row: Conversation, scores: Sequence[float]) -> float:
    return float(row.options[measures.choose_option(scores)] == row.answer)


def answer_pass(subject: Subject, rows: Sequence[Conversation], wanted: Collection[str]) -> Iterator[ItemScore]:
    """One greedy answer per row, scored in every way that is wanted."""
    if not any(name in wanted for name in ANSWER_SCORES if name != "json_field_accuracy"):
        rows = [row for row in rows if text_metrics.json_object(row.answer) is not None]
    for row, answer in zip(rows, _greedy_answers(subject, rows), strict=True):
        for name in ANSWER_SCORES:
            if name in wanted and (name != "json_field_accuracy" or text_metrics.json_object(row.answer) is not None):
                yield subject.score(row, name, ANSWER_SCORES[name](answer, row.answer))


def _greedy_answers(subject: Subject, rows: Sequence[Conversation]) -> list[str]:
    max_new_tokens = subject.config.max_new_tokens
    room = max(min(subject.max_length, scorers.context_of(subject.model) - max_new_tokens), subject.max_length // 2)
    examples = [tokenize_conversation(row, subject.tokenizer, last_turn_only=True) for row in rows]
    longer = sum(example.num_supervised > max_new_tokens for example in examples)
    if longer and subject.name == measures.BASE:
        logger.warning(
            "%d of %d reference answers are longer than evaluation.max_new_tokens=%d (the longest has %d tokens): the "
            "models' answers are cut there",
            *(longer, len(examples), max_new_tokens, max(example.num_supervised for example in examples)),
        )
    return scorers.generate_greedy(
        subject.model,
        subject.tokenizer,
        [prompt_ids(row, subject.tokenizer, int(room)) for row in rows],
        max_new_tokens=max_new_tokens,
        batch_tokens=subject.config.batch_tokens,
        eos_token_ids=scorers.end_of_turn_ids(subject.model, subject.tokenizer, examples),
        progress=subject.label("answers"),
    )


Pass = Callable[[Subject, Sequence[Conversation], Collection[str]], Iterator[ItemScore]]

PASSES: tuple[tuple[tuple[str, ...], Pass], ...] = (
    (("bits_per_byte",), reference_pass),
    (measures.CHOICE_METRICS, choice_pass),
    (measures.ANSWER_METRICS, answer_pass),
)
"""The metrics that each pass serves; a pass runs where one of its metrics is wanted."""
