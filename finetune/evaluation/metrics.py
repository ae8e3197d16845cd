"""What one item scores: pure functions from log-probabilities and texts to numbers; `passes` calls them.

Scores of whole answers stand here, scores of words and fields in `text_metrics`, calibration in `calibration`. A new
metric is one function, its direction in `HIGHER_IS_BETTER`, its name in `finetune.config.METRICS`, and its place in
`passes`.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

BASE, TUNED, MAJORITY = "base", "tuned", "majority_class"
"""Contestants of the item table that have a meaning of their own; others are exports."""
HIGHER_IS_BETTER = {
    "bits_per_byte": False,
    "choice_accuracy": True,
    "choice_accuracy_normalised": True,
    "calibration_error": False,
    "exact_match": True,
    "normalised_match": True,
    "token_f1": True,
    "rouge_l": True,
    "json_field_accuracy": True,
    **dict.fromkeys(("pass_at_1", "pass_at_5", "pass_at_10", "pass_at_100"), True),
}
"""Direction of each metric."""
CHOICE_METRICS = ("choice_accuracy", "choice_accuracy_normalised", "calibration_error")
"""Metrics of rows with options: log-probabilities of the given answers."""
ANSWER_METRICS = ("exact_match", "normalised_match", "token_f1", "rouge_l", "json_field_accuracy")
"""Metrics of the model's own answers: one greedy generation serves them all."""
CODE_METRICS = ("pass_at_1", "pass_at_5", "pass_at_10", "pass_at_100")
"""Metrics of functions that the model writes: run with their unit tests, where `evaluation.run_code` allows it."""
CONTINUOUS = ("bits_per_byte", "calibration_error")
"""Metrics on which two different models never agree on every item."""
CHOICE_CONFIDENCE = "choice_confidence"
"""Values of the item table that are no metric of their own: with choice_accuracy they make calibration_error."""


def bits_per_byte(log_probability_nats: float, num_bytes: int) -> float:
    """Bits that the model needs per UTF-8 byte of the supervised text; lower is better.

    -log2 p(text) / bytes, so that models with different tokenizers are comparable (Gao et al. 2020, The Pile, 3.1).
    The end-of-turn token costs bits and counts no bytes.

    Raises:
        ValueError: if `num_bytes` is not positive.
    """
    if num_bytes <= 0:
        raise ValueError(f"num_bytes is {num_bytes}; bits per byte need supervised text")
    return -log_probability_nats / (num_bytes * math.log(2))


def normalise_answer(text: str) -> str:
    """Fold what readers do not see as a difference: Unicode NFKC, letter case, runs of whitespace, trailing full stops.

    Other punctuation and articles stay: they can make the difference between two contract clauses.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).rstrip(".").rstrip()


def exact_match(prediction: str, reference: str) -> float:
    """1.0 if both say the same after `normalise_answer`, else 0.0."""
    return float(normalise_answer(prediction) == normalise_answer(reference))


def confidence(log_probabilities_nats: Sequence[float]) -> float:
    """Probability of the most probable option among all options: the softmax of the summed log-probabilities.

    Raises:
        ValueError: as `choose_option`.
    """
    highest = log_probabilities_nats[choose_option(log_probabilities_nats)]
    return 1.0 / math.fsum(math.exp(value - highest) for value in log_probabilities_nats)


def per_byte(log_probabilities_nats: Sequence[float], options: Sequence[str]) -> list[float]:
    """Log-probability of each option per UTF-8 byte of its text, in nats; an empty option counts as one byte."""
    return [value / max(1, len(option.encode())) for value, option in zip(log_probabilities_nats, options, strict=True)]


def choose_option(log_probabilities_nats: Sequence[float]) -> int:
    """Index of the option with the highest summed log-probability; of equals the first.

    Raw sums, the end-of-turn token included: these are probabilities of whole answers, so a short option that is the
    beginning of a longer one has no advantage. This is choice_accuracy, the main one of the two; with `per_byte` values
    it is choice_accuracy_normalised, which favours long options.

    Raises:
        ValueError: if there are no options, or a log-probability is no number.
    """
    if not log_probabilities_nats or any(math.isnan(value) for value in log_probabilities_nats):
        raise ValueError(f"no choice is possible among log-probabilities {list(log_probabilities_nats)}")
    return max(range(len(log_probabilities_nats)), key=log_probabilities_nats.__getitem__)


def majority_class(answers: Sequence[str]) -> str:
    """The most frequent answer as it first appears, after `normalise_answer`; of equally frequent ones the first.

    Raises:
        ValueError: if there are no answers.
    """
    if not answers:
        raise ValueError("no answers to find the majority of")
    most_frequent = Counter(map(normalise_answer, answers)).most_common(1)[0][0]
    return next(answer for answer in answers if normalise_answer(answer) == most_frequent)
