"""Intervals and tests against scipy, verdicts at the edges, and false alarms counted in small simulations."""

import numpy as np
import pytest
from scipy import stats

from finetune.evaluation import intervals, statistics, verdicts
from finetune.records import ItemScore


def scores(values, *, model="base", clusters=None, weights=None):
    clusters = clusters or [f"c{index}" for index in range(len(values))]
    weights = weights or [1.0] * len(values)
    return [
        ItemScore(item_id=f"i{index}", cluster_id=cluster, model=model, metric="m", value=float(value), weight=weight)
        for index, (value, cluster, weight) in enumerate(zip(values, clusters, weights, strict=True))
    ]


def compare(base, tuned, *, higher_is_better=True, margin=0.03, samples=2000, **columns):
    return verdicts.compare(
        scores(base, **columns),
        scores(tuned, model="tuned", **columns),
        higher_is_better=higher_is_better,
        margin=margin,
        samples=samples,
    )


@pytest.mark.parametrize(("successes", "n"), [(0, 60), (1, 7), (30, 60), (59, 60), (60, 60), (1, 1)])
def test_wilson_agrees_with_scipy(successes, n):
    reference = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert intervals.wilson_interval(successes / n, n) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_no_events_still_leave_the_rule_of_three():
    result = statistics.estimate(scores([0] * 100))
    assert result.value == result.low == 0
    assert 0.03 < result.high < 0.04


def test_a_single_item():
    rate = statistics.estimate(scores([1]))
    assert (rate.value, rate.high, rate.n) == (1, 1, 1)
    assert rate.low < 0.25
    mean = statistics.estimate(scores([0.7]))
    assert mean.low == mean.value == mean.high == 0.7
    assert compare([0], [1]).verdict == "not_enough_data"
    assert compare([0.70], [0.71]).verdict == "not_enough_data"  # within the margin, but with no spread to see
    assert compare([0.7], [0.1], higher_is_better=False).verdict == "not_enough_data"


@pytest.mark.parametrize(
    ("table", "published"),
    [
        ((36, 12, 2, 0), (0.0569, 0.3404)),  # Newcombe 1998, table III, negative correlation
        ((1, 7, 1, 12), (0.026, 0.507)),  # Fagerland et al. 2014 (data of Bentur et al. 2009), positive correlation
    ],
)
def test_newcombe_gives_the_published_intervals(table, published):
    assert intervals.newcombe_interval(*table) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("differences", [[1, 1, 1, -1, 0], [1] * 9, [-1] * 4 + [1] * 8, [1, -1]])
def test_sign_flip_is_mcnemar_where_every_cluster_is_one_item(differences):
    gained, lost = differences.count(1), differences.count(-1)
    p_value = statistics.sign_flip_p_value(np.array(differences, dtype=float))
    assert p_value == pytest.approx(statistics.mcnemar_p_value(gained, lost), abs=1e-12)


def test_random_sign_flips_come_near_the_exact_test():
    differences = np.array([1.0] * 22 + [-1.0] * 10)
    exact = statistics.mcnemar_p_value(22, 10)
    assert statistics.sign_flip_p_value(differences, samples=20_000) == pytest.approx(exact, abs=0.01)


def test_bootstrap_agrees_with_the_t_interval_on_normal_data():
    values = np.random.default_rng(1).normal(1.0, 0.5, 40)
    reference = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    low, high = intervals.bootstrap_interval(values, np.ones(40))
    assert (low, high) == pytest.approx(reference, abs=0.02)


def test_weighted_mean_is_total_over_total():
    result = statistics.estimate(scores([1.0, 4.0], weights=[300.0, 100.0]), samples=500)
    assert result.value == pytest.approx(1.75)


def test_items_of_one_cluster_are_no_independent_evidence():
    values = [0] * 30 + [1] * 30
    alone = statistics.estimate(scores(values))
    together = statistics.estimate(scores(values, clusters=[f"contract-{index // 10}" for index in range(60)]))
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert compare([0] * 60, [1] * 8 + [0] * 52).verdict == "better"
    one_contract = ["contract"] * 8 + [f"c{index}" for index in range(52)]
    assert compare([0] * 60, [1] * 8 + [0] * 52, clusters=one_contract).verdict == "not_enough_data"


def test_verdicts_follow_the_metrics_direction():
    generator = np.random.default_rng(0)
    base = generator.normal(2.0, 0.1, 50)
    tuned = base - 0.5 + generator.normal(0, 0.05, 50)
    assert compare(base, tuned, higher_is_better=False).verdict == "better"
    assert compare(tuned, base, higher_is_better=False).verdict == "worse"
    assert compare(tuned, base, higher_is_better=True).verdict == "better"


def test_a_sure_but_tiny_difference_is_equivalent():
    base = np.random.default_rng(0).normal(2.0, 0.1, 50)
    result = compare(base, base - 0.01, higher_is_better=False)
    assert result.high < 0
    assert result.p_value < 0.05
    assert result.verdict == "equivalent"
    assert compare(base, base - 0.01, higher_is_better=False, margin=0.001).verdict == "better"


def test_equal_scores():
    base = list(np.random.default_rng(0).normal(2.0, 0.1, 5))
    same = compare(base, base)
    assert (same.difference, same.p_value, same.verdict) == (0, 1, "equivalent")
    assert compare([0.5], [0.5], margin=0).verdict == "equivalent"
    assert compare([1, 0] * 150, [1, 0] * 150).verdict == "equivalent"
    few = compare([1, 0, 0], [1, 0, 0])  # three ties show little: 0/1 scores agree by chance
    assert (few.p_value, few.verdict) == (1, "not_enough_data")
    assert few.low < 0 < few.high


def test_every_item_changed_keeps_a_width():
    clusters = [f"c{index // 3}" for index in range(60)]
    result = compare([0] * 60, [1] * 60, clusters=clusters)
    assert result.verdict == "better"
    assert result.low < 0.9 < result.high == 1


def test_pairs_must_match():
    with pytest.raises(ValueError, match="same items"):
        compare([1, 0], [1])
    with pytest.raises(ValueError, match="same weights"):
        statistics.paired_difference(scores([1.5], weights=[2.0]), scores([1.5], weights=[3.0]))
    with pytest.raises(ValueError, match="no scores"):
        statistics.estimate([])


def test_holm_by_hand():
    assert statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert statistics.holm({"a": 0.9}) == {"a": 0.9}
    assert statistics.holm({}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "clustered binary", "continuous", "few clusters"])
def test_equal_models_rarely_look_different(kind):
    generator = np.random.default_rng(7)
    num_items = 8 if kind == "few clusters" else 60
    clusters = [f"c{index // (3 if kind == 'clustered binary' else 1)}" for index in range(num_items)]
    alarms = covered = 0
    trials = 300
    for _ in range(trials):
        if "binary" in kind:
            shared = np.repeat(generator.random(20), 3)  # difficulty that the items of a cluster have in common
            base, tuned = generator.random((2, num_items)) < shared
        else:
            base, tuned = generator.normal(1.0, 0.3, (2, num_items))
        result = compare(base, tuned, clusters=clusters, samples=300, margin=0.0)
        alarms += result.verdict in ("better", "worse")
        covered += result.low <= 0 <= result.high
    assert alarms / trials <= 0.075
    assert covered / trials >= 0.91


def test_same_seed_same_numbers():
    base, tuned = np.random.default_rng(3).normal(size=(2, 40))
    assert compare(base, tuned) == compare(base, tuned)
