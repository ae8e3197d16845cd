"""From a difference to a word, and to the number of items that would tell; `summary` calls this."""

import math
from collections.abc import Sequence

from scipy import stats

from finetune.evaluation.intervals import BOOTSTRAP_SAMPLES, CONFIDENCE
from finetune.evaluation.statistics import PairedDifference, paired_difference
from finetune.records import Comparison, ItemScore

SIGNIFICANCE = 0.05
POWER = 0.8
"""How likely a test with the items needed is to tell."""
MAX_ITEMS_NEEDED = 1_000_000


def verdict(
    paired: PairedDifference, p_value: float, *, higher_is_better: bool, margin: float, same_model: bool = False
) -> str:
    """Say better, worse, equivalent or not_enough_data.

    An interval wholly within plus or minus `margin` is equivalent even where it excludes 0. One cluster shows no
    spread: not enough data. Continuous scores that agree on every item show that the models are the same: equivalent.
    A few equal answers do not, unless another metric has shown it (`same_model`).
    """
    if paired.identical and (same_model or paired.continuous):
        return "equivalent"
    if paired.num_clusters < 2:
        return "not_enough_data"
    if -margin <= paired.low and paired.high <= margin:
        return "equivalent"
    if p_value < SIGNIFICANCE and (paired.low > 0 or paired.high < 0):
        return "better" if (paired.difference > 0) == higher_is_better else "worse"
    return "not_enough_data"


def conclude(
    paired: PairedDifference,
    adjusted_p_value: float,
    *,
    n: int,
    higher_is_better: bool,
    margin: float,
    num_metrics: int = 1,
    same_model: bool = False,
) -> Comparison:
    """Turn a difference over `n` items and its p-value, adjusted for `num_metrics` tests, into a verdict."""
    word = verdict(paired, adjusted_p_value, higher_is_better=higher_is_better, margin=margin, same_model=same_model)
    needed = items_needed(paired, n, margin=margin, num_metrics=num_metrics) if word == "not_enough_data" else None
    return Comparison(
        difference=paired.difference,
        low=paired.low,
        high=paired.high,
        p_value=adjusted_p_value,
        verdict=word,
        raw_p_value=paired.p_value,
        items_needed=needed,
    )


def items_needed(paired: PairedDifference, n: int, *, margin: float, num_metrics: int = 1) -> int | None:
    """About how many items would tell, with 80 % probability, if the true difference were the one seen.

    Either they show the difference (at the level of the strictest of `num_metrics` tests) or, where it is smaller than
    `margin`, that it is no larger: the smaller number counts. The standard error is that of the interval and shrinks
    with the square root of the number of items. None where no number follows: no interval, or no difference and no
    margin.
    """
    z, power = float(stats.norm.ppf((1 + CONFIDENCE) / 2)), float(stats.norm.ppf(POWER))
    error = (paired.high - paired.low) / (2 * z)
    strict = float(stats.norm.ppf(1 - SIGNIFICANCE / (2 * num_metrics)))
    size = abs(paired.difference)
    ratios = [(strict + power) * error / size] if size > 0 else []
    ratios += [(z + power) * error / (margin - size)] if size < margin else []
    if error <= 0 or not ratios:
        return None
    return min(MAX_ITEMS_NEEDED, max(n + 1, math.ceil(n * min(ratios) ** 2)))


def compare(
    base: Sequence[ItemScore],
    tuned: Sequence[ItemScore],
    *,
    higher_is_better: bool,
    margin: float,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models on one metric, with no correction for other metrics (`summarise` corrects)."""
    paired = paired_difference(base, tuned, samples=samples, seed=seed)
    return conclude(paired, paired.p_value, n=len(tuned), higher_is_better=higher_is_better, margin=margin)
