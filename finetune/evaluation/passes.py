"""Runs a model over the test rows once for each kind of question, and scores what it says; `evaluate` calls this.

A pass is one way of asking: log-probabilities of the reference answers, log-probabilities of given options, one greedy
answer, functions that are run. Each serves several metrics at once; a new way of asking is one function here and one
line in `PASSES`.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.config import EvaluationConfig
from finetune.data.tokenize import fit, tokenize_conversation
from finetune.errors import ModelError
from finetune.evaluation import metrics as measures
from finetune.evaluation import scorers, text_metrics
from finetune.evaluation.code_answers import pass_at_k, program_of
from finetune.evaluation.fitting import option_examples, prompt_ids
from finetune.evaluation.sandbox.isolation import find_isolation
from finetune.evaluation.sandbox.run import Limits, run_programs
from finetune.progress import track
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
    config = subject.config
    for row, answer in zip(rows, _answers(subject, rows, config.max_new_tokens, "max_new_tokens"), strict=True):
        for name in ANSWER_SCORES:
            if name in wanted and (name != "json_field_accuracy" or text_metrics.json_object(row.answer) is not None):
                yield subject.score(row, name, ANSWER_SCORES[name](answer, row.answer))


def code_pass(subject: Subject, rows: Sequence[Conversation], wanted: Collection[str]) -> Iterator[ItemScore]:
    """Functions that the model writes, run with their unit tests: one most probable answer to a row, or several drawn.

    Raises:
        ConfigError: this machine cannot shut code in.
        ResourceError: a sandbox could not be made.
    """
    config, isolation = subject.config, find_isolation()
    rows = [row for row in rows if row.tests]
    num_samples = config.code_samples
    asked = [row for row in rows for _ in range(num_samples)]
    temperature = config.code_temperature if num_samples > 1 else 0.0
    answers = _answers(subject, asked, config.max_code_tokens, "max_code_tokens", temperature)
    programs = [program_of(row, answer) for row, answer in zip(asked, answers, strict=True)]
    limits = Limits(wall_seconds=config.code_seconds, cpu_seconds=math.ceil(config.code_seconds))
    running = run_programs(programs, isolation, limits)
    outcomes = list(track(running, subject.label("running code"), total=len(programs), unit="programs"))
    reasons = Counter(outcome.reason for outcome in outcomes)
    logger.info(
        "%s: %d programs: %s",
        *(subject.name, len(programs), ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())),
    )
    for place, row in enumerate(rows):
        own = outcomes[place * num_samples : (place + 1) * num_samples]
        num_passed = sum(outcome.passed for outcome in own)
        for metric in measures.CODE_METRICS:
            if metric in wanted:
                k = int(metric.removeprefix("pass_at_"))
                yield subject.score(row, metric, pass_at_k(num_samples, num_passed, k))


def _answers(
    subject: Subject, rows: Sequence[Conversation], max_new_tokens: int, option: str, temperature: float = 0.0
) -> list[str]:
    """The model's own answer to each row, of `max_new_tokens` at most, which is the value of `option`."""
    room = max(min(subject.max_length, scorers.context_of(subject.model) - max_new_tokens), subject.max_length // 2)
    examples = [tokenize_conversation(row, subject.tokenizer, last_turn_only=True) for row in rows]
    longer = sum(example.num_supervised > max_new_tokens for example in examples)
    if longer and subject.name == measures.BASE:
        logger.warning(
            "%d of %d reference answers are longer than evaluation.%s=%d (the longest has %d tokens): the "
            "models' answers are cut there",
            *(longer, len(examples), option, max_new_tokens, max(example.num_supervised for example in examples)),
        )
    return scorers.generate_greedy(
        subject.model,
        subject.tokenizer,
        [prompt_ids(row, subject.tokenizer, int(room)) for row in rows],
        max_new_tokens=max_new_tokens,
        batch_tokens=subject.config.batch_tokens,
        eos_token_ids=scorers.end_of_turn_ids(subject.model, subject.tokenizer, examples),
        progress=subject.label("answers"),
        temperature=temperature,
    )


Pass = Callable[[Subject, Sequence[Conversation], Collection[str]], Iterator[ItemScore]]

PASSES: tuple[tuple[tuple[str, ...], Pass], ...] = (
    (("bits_per_byte",), reference_pass),
    (measures.CHOICE_METRICS, choice_pass),
    (measures.ANSWER_METRICS, answer_pass),
    (measures.CODE_METRICS, code_pass),
)
"""The metrics that each pass serves; a pass runs where one of its metrics is wanted."""
