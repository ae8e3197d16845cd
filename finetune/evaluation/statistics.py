"""Intervals, tests and verdicts from per-item scores: pure functions on numpy and scipy; `summary` calls them.

Items of one cluster (a contract, a patient) are not independent, so everything here resamples or flips whole clusters:

rates (0/1)       Wilson interval, at the effective sample size where items are clustered
other means       bootstrap over clusters of sum(w v) / sum(w), expanded percentile interval
0/1 differences   exact McNemar test and Newcombe's interval; clustered: sign-flip test and bootstrap interval
other differences sign-flip test over clusters and paired cluster bootstrap
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from finetune.records import Comparison, Estimate, ItemScore

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
BOOTSTRAP_SAMPLES = 10_000
MAX_EXACT_CLUSTERS = 13
"""Up to so many differing clusters all 2^k sign patterns are counted; beyond that, random ones."""
MAX_CELLS = 4_000_000
"""Numbers drawn at once; bounds memory."""

Floats = NDArray[np.float64]


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
    binary: bool
    """All scores are 0 or 1."""


def wilson_interval(rate: float, n: float, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a rate over `n` trials (Wilson 1927); at 0 or 1 it takes the place of the rule of three.

    `n` may be an effective sample size, hence fractional.

    Raises:
        ValueError: if `n` is not positive or `rate` not in [0, 1].
    """
    if n <= 0 or not 0 <= rate <= 1:
        raise ValueError(f"no Wilson interval for a rate of {rate} over {n} trials")
    z = float(stats.norm.ppf((1 + confidence) / 2))
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, centre - half) if rate > 0 else 0.0, min(1.0, centre + half) if rate < 1 else 1.0


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
    magnitudes = np.abs(cluster_differences[cluster_differences != 0])
    if magnitudes.size == 0:
        return 1.0
    threshold = abs(float(cluster_differences.sum())) * (1 - 1e-9)
    if magnitudes.size <= MAX_EXACT_CLUSTERS:
        patterns = np.arange(2**magnitudes.size)[:, None] >> np.arange(magnitudes.size) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ magnitudes) >= threshold))
    generator = np.random.default_rng(seed)
    extreme = 0
    for size in _chunks(samples, magnitudes.size):
        signs = 2.0 * generator.integers(0, 2, (size, magnitudes.size), dtype=np.int8) - 1
        extreme += int(np.count_nonzero(np.abs(signs @ magnitudes) >= threshold))
    return (extreme + 1) / (samples + 1)


def bootstrap_interval(
    numerators: Floats, denominators: Floats, *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of sum(numerators) / sum(denominators) by resampling clusters, one entry per cluster.

    Percentiles are expanded for few clusters: alpha / 2 becomes Phi(-sqrt(g / (g - 1)) t(g - 1)) (Hesterberg 2015).
    A single cluster tells nothing about the spread: both ends are then the value itself.
    """
    num_clusters = numerators.size
    if num_clusters < 2:
        value = float(numerators.sum() / denominators.sum())
        return value, value
    generator = np.random.default_rng(seed)
    ratios: list[Floats] = []
    for size in _chunks(samples, num_clusters):
        drawn = generator.integers(0, num_clusters, (size, num_clusters))
        ratios.append(numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1))
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_clusters - 1))
    tail = float(stats.norm.cdf(-math.sqrt(num_clusters / (num_clusters - 1)) * t))
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return float(low), float(high)


def newcombe_interval(both: float, gained: float, lost: float, neither: float) -> tuple[float, float]:
    """Interval of the difference of two paired rates (Newcombe 1998, method 10) from the numbers of items.

    Unlike the bootstrap it keeps a width where no item, or every item, changed: a rule of three for differences.
    """
    n = both + gained + lost + neither
    tuned, base = (both + gained) / n, (both + lost) / n
    tuned_low, tuned_high = wilson_interval(tuned, n)
    base_low, base_high = wilson_interval(base, n)
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    phi = 0.0
    if margins > 0:
        cross = both * neither - gained * lost
        cross = max(cross - n / 2, 0.0) if cross > 0 else cross
        phi = cross / math.sqrt(margins)
    down, base_up = tuned - tuned_low, base_high - base
    up, base_down = tuned_high - tuned, base - base_low
    below = math.sqrt(max(0.0, down**2 - 2 * phi * down * base_up + base_up**2))
    above = math.sqrt(max(0.0, up**2 - 2 * phi * up * base_down + base_down**2))
    return max(-1.0, tuned - base - below), min(1.0, tuned - base + above)


def estimate(scores: Sequence[ItemScore], *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0) -> Estimate:
    """Weighted mean of one model's scores with its 95 % interval.

    Rates take Wilson's interval. Clustered rates take it at n / design effect, corrected for few clusters (Korn and
    Graubard 1998), which at 0 or 1, where no design effect can be seen, is n itself.

    Raises:
        ValueError: if there are no scores.
    """
    if not scores:
        raise ValueError("no scores to estimate a mean from")
    values, weights, clusters = _columns(scores)
    mean = float(weights @ values / weights.sum())
    numerators, denominators = _per_cluster(weights * values, clusters), _per_cluster(weights, clusters)
    if _is_binary(values) and np.all(weights == 1):
        low, high = wilson_interval(mean, _effective_n(numerators, denominators, mean))
    else:
        low, high = bootstrap_interval(numerators, denominators, samples=samples, seed=seed)
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean), n=len(scores))


def paired_difference(
    base: Sequence[ItemScore], tuned: Sequence[ItemScore], *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> PairedDifference:
    """Tuned minus base over the same items, with the interval and test that fit the scores (see the module's table).

    Raises:
        ValueError: if the two do not cover the same items with the same weights, or cover none.
    """
    by_item = {score.item_id: score for score in base}
    if not tuned or len(by_item) != len(base) or {s.item_id for s in tuned} != set(by_item) or len(tuned) != len(base):
        raise ValueError(
            f"a paired comparison needs the same items on both sides ({len(base)} and {len(tuned)} scores)"
        )
    tuned_values, weights, clusters = _columns(tuned)
    base_values, base_weights, _ = _columns([by_item[score.item_id] for score in tuned])
    if not np.array_equal(weights, base_weights):
        raise ValueError("a paired comparison needs the same weights on both sides")
    changes = tuned_values - base_values
    numerators, denominators = _per_cluster(weights * changes, clusters), _per_cluster(weights, clusters)
    binary = _is_binary(tuned_values) and _is_binary(base_values) and bool(np.all(weights == 1))
    if binary and numerators.size == changes.size:
        p_value = mcnemar_p_value(int(np.sum(changes > 0)), int(np.sum(changes < 0)))
        low, high = newcombe_interval(*_table(base_values, tuned_values))
    else:
        p_value = sign_flip_p_value(numerators, samples=samples, seed=seed)
        low, high = bootstrap_interval(numerators, denominators, samples=samples, seed=seed)
        if binary and low == high:
            shrink = numerators.size / changes.size
            low, high = newcombe_interval(*(count * shrink for count in _table(base_values, tuned_values)))
    return PairedDifference(
        difference=float(numerators.sum() / denominators.sum()),
        low=low,
        high=high,
        p_value=p_value,
        num_clusters=numerators.size,
        identical=not np.any(changes),
        binary=binary,
    )


def verdict(
    paired: PairedDifference, p_value: float, *, higher_is_better: bool, margin: float, same_model: bool = False
) -> str:
    """Say better, worse, equivalent or not_enough_data.

    An interval wholly within plus or minus `margin` is equivalent even where it excludes 0. One cluster shows no
    spread: not enough data. Continuous scores that agree on every item show that the models are the same: equivalent.
    A few 0/1 scores that agree do not, unless another metric has shown it (`same_model`).
    """
    if paired.identical and (same_model or not paired.binary):
        return "equivalent"
    if paired.num_clusters < 2:
        return "not_enough_data"
    if -margin <= paired.low and paired.high <= margin:
        return "equivalent"
    if p_value < SIGNIFICANCE and (paired.low > 0 or paired.high < 0):
        return "better" if (paired.difference > 0) == higher_is_better else "worse"
    return "not_enough_data"


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values of several metrics so that the chance of any false alarm stays at 5 % (Holm 1979)."""
    ordered = sorted(p_values, key=p_values.__getitem__)
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(ordered):
        highest = max(highest, min(1.0, (len(ordered) - rank) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


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
    return conclude(paired, paired.p_value, higher_is_better=higher_is_better, margin=margin)


def conclude(
    paired: PairedDifference, p_value: float, *, higher_is_better: bool, margin: float, same_model: bool = False
) -> Comparison:
    """Turn a difference and its (adjusted) p-value into a `Comparison` with a verdict."""
    word = verdict(paired, p_value, higher_is_better=higher_is_better, margin=margin, same_model=same_model)
    return Comparison(difference=paired.difference, low=paired.low, high=paired.high, p_value=p_value, verdict=word)


def _columns(scores: Sequence[ItemScore]) -> tuple[Floats, Floats, list[str]]:
    values = np.array([score.value for score in scores], dtype=np.float64)
    weights = np.array([score.weight for score in scores], dtype=np.float64)
    return values, weights, [score.cluster_id for score in scores]


def _per_cluster(values: Floats, clusters: Sequence[str]) -> Floats:
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


def _chunks(samples: int, width: int) -> list[int]:
    size = max(1, MAX_CELLS // max(1, width))
    return [min(size, samples - start) for start in range(0, samples, size)]
