"""Does a model know when it is right? Expected calibration error and the curve behind it; `summary` calls this.

Definition (Guo et al. 2017, section 2): an answer's confidence is the probability of the chosen option among all
options (`metrics.confidence`), bins are `NUM_BINS` of equal width, (0, 0.1] to (0.9, 1], and the error is the mean over
all answers of |share that is right - mean confidence| of their bin.

Shapes: C clusters, B bins, S resamples. With G the sum over a bin's answers of (right - confidence), the error is
sum_B |G_B| / n, so that resampling and exchanging models are sums over clusters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.evaluation.intervals import BOOTSTRAP_SAMPLES, Floats, chunks, expanded_tail
from finetune.evaluation.statistics import PairedDifference, permutation_p_value, same_items
from finetune.records import Estimate, ItemScore, ReliabilityBin

NUM_BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """One model's answers, sorted by item: confidence, whether right (0 or 1), and cluster of each."""

    confidences: Floats
    right: Floats
    clusters: NDArray[np.str_]

    def gaps_CB(self) -> Floats:
        """Sums of right - confidence by cluster (in the order of their names) and bin."""
        names, cluster = np.unique(self.clusters, return_inverse=True)
        gaps = np.zeros((names.size, NUM_BINS))
        np.add.at(gaps, (cluster, bin_of(self.confidences)), self.right - self.confidences)
        return gaps

    def items_C(self) -> Floats:
        """Answers by cluster."""
        return np.unique(self.clusters, return_counts=True)[1].astype(np.float64)


def judged(accuracy: Sequence[ItemScore], confidence: Sequence[ItemScore]) -> Judged:
    """Join one model's choice_accuracy with its choice_confidence.

    Raises:
        ValueError: if the two do not cover the same items.
    """
    confidence = sorted(confidence, key=lambda score: score.item_id)
    accuracy = same_items(accuracy, confidence)
    return Judged(
        confidences=np.array([score.value for score in confidence]),
        right=np.array([score.value for score in accuracy]),
        clusters=np.array([score.cluster_id for score in confidence]),
    )


def bin_of(confidences: Floats) -> NDArray[np.intp]:
    """Index of the bin (low, high] of each confidence."""
    edges = np.arange(1, NUM_BINS) / NUM_BINS
    return np.searchsorted(edges, confidences, side="left")


def expected_calibration_error(answers: Judged) -> float:
    """The error of the module's definition, between 0 and 1."""
    return float(np.abs(answers.gaps_CB().sum(axis=0)).sum() / answers.right.size)


def reliability(answers: Judged) -> tuple[ReliabilityBin, ...]:
    """The bins that hold answers, with their mean confidence and the share that is right."""
    bins = bin_of(answers.confidences)
    return tuple(
        ReliabilityBin(
            low=number / NUM_BINS,
            high=(number + 1) / NUM_BINS,
            n=int(np.sum(bins == number)),
            confidence=float(answers.confidences[bins == number].mean()),
            accuracy=float(answers.right[bins == number].mean()),
        )
        for number in np.unique(bins).tolist()
    )


def estimate_calibration(answers: Judged, *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0) -> Estimate:
    """The error with its bootstrap interval over clusters."""
    value = expected_calibration_error(answers)
    [errors] = _resampled([answers], samples, seed)
    low, high = _interval(errors, value, answers.items_C().size)
    return Estimate(value=value, low=min(max(low, 0.0), value), high=max(min(high, 1.0), value), n=answers.right.size)


def calibration_difference(
    base: Judged, tuned: Judged, *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> PairedDifference:
    """Tuned minus base: paired cluster bootstrap, and a permutation test that exchanges the models by cluster.

    Raises:
        ValueError: if the two do not cover the same clusters.
    """
    if not np.array_equal(base.clusters, tuned.clusters):
        raise ValueError("a paired comparison needs the same items on both sides")
    difference = expected_calibration_error(tuned) - expected_calibration_error(base)
    base_errors, tuned_errors = _resampled([base, tuned], samples, seed)
    low, high = _interval(tuned_errors - base_errors, difference, base.items_C().size)
    total_CB, change_CB = base.gaps_CB() + tuned.gaps_CB(), tuned.gaps_CB() - base.gaps_CB()
    moved = np.any(change_CB != 0, axis=1)
    total_B, n = total_CB.sum(axis=0), base.right.size

    def exchanged(signs_SC: Floats) -> Floats:
        change_SB = signs_SC @ change_CB[moved]
        return np.abs(np.abs(total_B + change_SB).sum(axis=1) - np.abs(total_B - change_SB).sum(axis=1)) / (2 * n)

    return PairedDifference(
        difference=difference,
        low=low,
        high=high,
        p_value=permutation_p_value(exchanged, abs(difference), int(moved.sum()), samples=samples, seed=seed),
        num_clusters=base.items_C().size,
        identical=np.array_equal(base.confidences, tuned.confidences) and np.array_equal(base.right, tuned.right),
        continuous=True,
    )


def _resampled(models: Sequence[Judged], samples: int, seed: int) -> list[Floats]:
    """Errors of each model (S) on the same resamples of clusters."""
    gaps, items_C = [model.gaps_CB() for model in models], models[0].items_C()
    generator = np.random.default_rng(seed)
    parts: list[list[Floats]] = [[] for _ in models]
    for size in chunks(samples, items_C.size):
        times_SC = generator.multinomial(items_C.size, np.full(items_C.size, 1 / items_C.size), size).astype(np.float64)
        for part, gaps_CB in zip(parts, gaps, strict=True):
            part.append(np.abs(times_SC @ gaps_CB).sum(axis=1) / (times_SC @ items_C))
    return [np.concatenate(part) for part in parts]


def _interval(resampled: Floats, value: float, num_clusters: int) -> tuple[float, float]:
    """Percentiles, moved by what resampling adds: noise alone makes gaps, and a resample has more of it."""
    if num_clusters < 2:
        return value, value
    tail = expanded_tail(num_clusters)
    low, high = np.quantile(resampled, [tail, 1 - tail]) - (resampled.mean() - value)
    return float(low), float(high)
