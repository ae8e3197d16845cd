"""What one item scores: pure functions from log-probabilities and texts to numbers; `evaluate` calls them.

A new metric is one function here, its direction in `HIGHER_IS_BETTER`, and its name in `finetune.config.METRICS`.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence

BASE, TUNED, MAJORITY = "base", "tuned", "majority_class"
"""Contestants of the item table that have a meaning of their own; others are exports."""
HIGHER_IS_BETTER = {"bits_per_byte": False, "choice_accuracy": True, "exact_match": True}
"""Direction of each metric."""


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


def choose_option(log_probabilities_nats: Sequence[float]) -> int:
    """Index of the option with the highest summed log-probability; of equals the first.

    Raw sums, the end-of-turn token included: these are probabilities of whole answers, so a short option that is the
    beginning of a longer one has no advantage. No division by length (that would favour long options).

    Raises:
        ValueError: if there are no options, or a log-probability is no number.
    """
    if not log_probabilities_nats or any(math.isnan(value) for value in log_probabilities_nats):
        raise ValueError(f"no choice is possible among log-probabilities {list(log_probabilities_nats)}")
    return max(range(len(log_probabilities_nats)), key=log_probabilities_nats.__getitem__)


def majority_class(answers: Sequence[str]) -> str:
    """The most frequent answer, normalised; of equally frequent ones the first to appear.

    Raises:
        ValueError: if there are no answers.
    """
    if not answers:
        raise ValueError("no answers to find the majority of")
    return Counter(map(normalise_answer, answers)).most_common(1)[0][0]
