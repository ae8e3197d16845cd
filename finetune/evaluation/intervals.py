"""95 % intervals of means, rates and differences: pure functions on numpy and scipy; `statistics` chooses among them.

C clusters (contracts, patients), resampled whole; S resamples.
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
BOOTSTRAP_SAMPLES = 10_000
MAX_CELLS = 4_000_000
"""Numbers drawn at once; bounds memory."""

Floats = NDArray[np.float64]


def wilson_interval(rate: float, n: float, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a rate over `n` trials (Wilson 1927).

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


def rule_of_three(n: float, *, confidence: float = CONFIDENCE) -> float:
    """Largest rate that still shows no event in `n` independent trials with probability 1 - `confidence`.

    The exact form, 1 - 0.05^(1/n), of what is about 3 / n from 30 trials on (Hanley and Lippman-Hand 1983).

    Raises:
        ValueError: if `n` is not positive.
    """
    if n <= 0:
        raise ValueError(f"no rule of three over {n} trials")
    return 1.0 - (1.0 - confidence) ** (1.0 / n)


def rate_interval(rate: float, n: float) -> tuple[float, float]:
    """Interval of a rate over `n` trials: Wilson's, and the rule of three where no trial or every trial succeeded."""
    low, high = wilson_interval(rate, n)
    if rate == 0:
        return 0.0, rule_of_three(n)
    return (1.0 - rule_of_three(n), 1.0) if rate == 1 else (low, high)


def bootstrap_interval(
    numerators: Floats, denominators: Floats, *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Interval of sum(numerators) / sum(denominators) by resampling clusters, one entry per cluster.

    Percentiles are those of `expanded_tail`. A single cluster tells nothing about the spread: both ends are then the
    value itself.
    """
    num_clusters = numerators.size
    if num_clusters < 2:
        value = float(numerators.sum() / denominators.sum())
        return value, value
    generator = np.random.default_rng(seed)
    ratios: list[Floats] = []
    for size in chunks(samples, num_clusters):
        drawn = generator.integers(0, num_clusters, (size, num_clusters))
        ratios.append(numerators[drawn].sum(axis=1) / denominators[drawn].sum(axis=1))
    tail = expanded_tail(num_clusters)
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return float(low), float(high)


def expanded_tail(num_clusters: int) -> float:
    """Share of resamples outside each end: alpha / 2 becomes Phi(-sqrt(C / (C - 1)) t(C - 1)) (Hesterberg 2015).

    The plain percentiles are too narrow for few clusters; this is for two and more.
    """
    t = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_clusters - 1))
    return float(stats.norm.cdf(-math.sqrt(num_clusters / (num_clusters - 1)) * t))


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


def chunks(samples: int, width: int) -> list[int]:
    """Cut `samples` rows of `width` numbers into parts that stay within `MAX_CELLS`."""
    size = max(1, MAX_CELLS // max(1, width))
    return [min(size, samples - start) for start in range(0, samples, size)]
