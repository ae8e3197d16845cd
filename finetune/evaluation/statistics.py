"""Estimates and paired tests from per-item scores: pure functions; `summary` and `calibration` call them.

Items of one cluster (a contract, a patient) are not independent, so everything here resamples or flips whole clusters:

rates (0/1)       Wilson interval, at the effective sample size where items are clustered; at 0 and 1 the rule of three
other means       bootstrap over clusters of sum(w v) / sum(w), expanded percentile interval
0/1 differences   exact McNemar test and Newcombe's interval; clustered: sign-flip test and bootstrap interval
other differences sign-flip test over clusters and paired cluster bootstrap
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from finetune.evaluation.intervals import (
    BOOTSTRAP_SAMPLES,
    CONFIDENCE,
    Floats,
    bootstrap_interval,
    chunks,
    newcombe_interval,
    rate_interval,
    rule_of_three,
)
from finetune.records import Estimate, ItemScore

MAX_EXACT_CLUSTERS = 13
"""Up to so many differing clusters all 2^k sign patterns are counted; beyond that, random ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Tuned minus base before any verdict."""

    difference: float
    low: float
    high: float
    p_value: float
    num_clusters: int
    identical: bool
    """Both models score the same on every item."""
    continuous: bool
    """Two different models would hardly score the same on every item."""


def mcnemar_p_value(num_gained: int, num_lost: int) -> float:
    """Two-sided exact McNemar test on the items that only one of the two models gets right; 1 if there are none."""
    if num_gained + num_lost == 0:
        return 1.0
    return float(stats.binomtest(num_gained, num_gained + num_lost, 0.5).pvalue)


def sign_flip_p_value(cluster_differences: Floats, *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0) -> float:
    """Two-sided permutation test: under the null hypothesis each cluster's difference could have either sign.

    Whole clusters are flipped, so dependence inside a cluster does no harm; with one 0/1 item per cluster it equals the
    exact McNemar test. Exact up to `MAX_EXACT_CLUSTERS`, else (extreme + 1) / (samples + 1) (Phipson and Smyth 2010).
    """
    magnitudes = np.abs(cluster_differences[cluster_differences != 0]).astype(np.float64)
    return permutation_p_value(
        lambda signs_SC: np.abs(signs_SC @ magnitudes),
        abs(float(cluster_differences.sum())),
        magnitudes.size,
        samples=samples,
        seed=seed,
    )


def permutation_p_value(
    statistic: Callable[[Floats], Floats], observed: float, num_clusters: int, *, samples: int, seed: int
) -> float:
    """Share of sign patterns whose statistic is as large as the observed one.

    `statistic` takes signs (S patterns, C clusters) of +1 (as it is) and -1 (models exchanged) and returns S numbers.
    """
    if num_clusters == 0:
        return 1.0
    threshold = observed * (1 - 1e-9)
    if num_clusters <= MAX_EXACT_CLUSTERS:
        patterns = np.arange(2**num_clusters)[:, None] >> np.arange(num_clusters) & 1
        return float(np.mean(statistic((2 * patterns - 1).astype(np.float64)) >= threshold))
    generator = np.random.default_rng(seed)
    extreme = 0
    for size in chunks(samples, num_clusters):
        signs_SC = (2 * generator.integers(0, 2, (size, num_clusters), dtype=np.int8) - 1).astype(np.float64)
        extreme += int(np.count_nonzero(statistic(signs_SC) >= threshold))
    return (extreme + 1) / (samples + 1)


def estimate(scores: Sequence[ItemScore], *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0) -> Estimate:
    """Weighted mean of one model's scores with its 95 % interval.

    Rates take `rate_interval`. Clustered rates take it at n / design effect, corrected for few clusters (Korn and
    Graubard 1998); at 0 or 1, where no design effect can be seen, the design effect is 1.

    Raises:
        ValueError: if there are no scores.
    """
    if not scores:
        raise ValueError("no scores to estimate a mean from")
    values, weights, clusters = _columns(scores)
    mean = float(weights @ values / weights.sum())
    numerators, denominators = per_cluster(weights * values, clusters), per_cluster(weights, clusters)
    if _is_binary(values) and np.all(weights == 1):
        low, high = rate_interval(mean, _effective_n(numerators, denominators, mean))
    else:
        low, high = bootstrap_interval(numerators, denominators, samples=samples, seed=seed)
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean), n=len(scores))


def paired_difference(
    base: Sequence[ItemScore],
    tuned: Sequence[ItemScore],
    *,
    continuous: bool | None = None,
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> PairedDifference:
    """Tuned minus base over the same items, with the interval and test that fit the scores (see the module's table).

    `continuous` says what `PairedDifference.continuous` says; None takes all scores for continuous that are not 0 or 1.
    Scores that are not continuous lie between 0 and 1: where all items change alike, the rule of three gives the width.

    Raises:
        ValueError: if the two do not cover the same items with the same weights, or cover none.
    """
    base = same_items(base, tuned)
    tuned_values, weights, clusters = _columns(tuned)
    base_values, base_weights, _ = _columns(base)
    if not np.array_equal(weights, base_weights):
        raise ValueError("a paired comparison needs the same weights on both sides")
    changes = tuned_values - base_values
    numerators, denominators = per_cluster(weights * changes, clusters), per_cluster(weights, clusters)
    difference = float(numerators.sum() / denominators.sum())
    binary = _is_binary(tuned_values) and _is_binary(base_values) and bool(np.all(weights == 1))
    continuous = not binary if continuous is None else continuous
    if binary and numerators.size == changes.size:
        p_value = mcnemar_p_value(int(np.sum(changes > 0)), int(np.sum(changes < 0)))
        low, high = newcombe_interval(*_table(base_values, tuned_values))
    else:
        p_value = sign_flip_p_value(numerators, samples=samples, seed=seed)
        low, high = bootstrap_interval(numerators, denominators, samples=samples, seed=seed)
        if binary and low == high:
            shrink = numerators.size / changes.size
            low, high = newcombe_interval(*(count * shrink for count in _table(base_values, tuned_values)))
        elif not continuous and low == high:
            unseen = rule_of_three(numerators.size)
            low, high = max(-1.0, difference - unseen), min(1.0, difference + unseen)
    return PairedDifference(
        difference=difference,
        low=low,
        high=high,
        p_value=p_value,
        num_clusters=numerators.size,
        identical=not np.any(changes),
        continuous=continuous,
    )


def same_items(base: Sequence[ItemScore], other: Sequence[ItemScore]) -> list[ItemScore]:
    """Put the scores of `base` into the order of `other`.

    Raises:
        ValueError: if the two do not cover the same items, or cover none.
    """
    by_item = {score.item_id: score for score in base}
    alike = len(by_item) == len(base) == len(other) and {score.item_id for score in other} == set(by_item)
    if not other or not alike:
        raise ValueError(
            f"a paired comparison needs the same items on both sides ({len(base)} and {len(other)} scores)"
        )
    return [by_item[score.item_id] for score in other]


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values of several metrics so that the chance of any false alarm stays at 5 % (Holm 1979)."""
    ordered = sorted(p_values, key=p_values.__getitem__)
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def _columns(scores: Sequence[ItemScore]) -> tuple[Floats, Floats, list[str]]:
    values = np.array([score.value for score in scores], dtype=np.float64)
    weights = np.array([score.weight for score in scores], dtype=np.float64)
    return values, weights, [score.cluster_id for score in scores]


def per_cluster(values: Floats, clusters: Sequence[str]) -> Floats:
    """Sum values by cluster; the clusters stand in the order of their names."""
    _, index = np.unique(np.array(clusters), return_inverse=True)
    return np.bincount(index, weights=values).astype(np.float64)


def _is_binary(values: Floats) -> bool:
    return bool(np.all((values == 0) | (values == 1)))


def _effective_n(successes: Floats, sizes: Floats, rate: float) -> float:
    """Independent trials that the clustered ones are worth: n / design effect, times (z / t)^2 for few clusters."""
    n, num_clusters = float(sizes.sum()), sizes.size
    if num_clusters == n:
        return n
    if num_clusters < 2:
        return 1.0
    residuals = successes - rate * sizes
    variance = num_clusters / (num_clusters - 1) * float(residuals @ residuals) / n**2
    binomial = rate * (1 - rate) / n
    design_effect = max(1.0, variance / binomial) if binomial > 0 else 1.0
    quantile = (1 + CONFIDENCE) / 2
    few = float(stats.norm.ppf(quantile) / stats.t.ppf(quantile, num_clusters - 1))
    return n / design_effect * few**2


def _table(base: Floats, tuned: Floats) -> tuple[float, float, float, float]:
    return (
        float(np.sum((base == 1) & (tuned == 1))),
        float(np.sum((base == 0) & (tuned == 1))),
        float(np.sum((base == 1) & (tuned == 0))),
        float(np.sum((base == 0) & (tuned == 0))),
    )
