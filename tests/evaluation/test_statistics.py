"""Intervals and tests against scipy, verdicts at the edges, and false alarms counted in small simulations."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from finetune.config import EvaluationConfig
from finetune.evaluation import intervals, statistics, verdicts
from finetune.evaluation.summary import summarise
from finetune.records import ItemScore

REFERENCE = json.loads((Path(__file__).parent / "reference_scores.json").read_text())
"""Written by scripts/build_reference_scores with statsmodels."""


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


def test_mcnemar_wilson_and_holm_agree_with_statsmodels():
    for gained, lost, p_value in REFERENCE["mcnemar"]:
        assert statistics.mcnemar_p_value(gained, lost) == pytest.approx(p_value, rel=1e-9)
    for events, n, low, high in REFERENCE["wilson"]:
        assert intervals.wilson_interval(events / n, n) == pytest.approx((low, high), abs=1e-12)
    for raw, adjusted in REFERENCE["holm"]:
        found = statistics.holm({str(place): value for place, value in enumerate(raw)})
        assert list(found.values()) == pytest.approx(adjusted, rel=1e-12)


def test_no_events_leave_the_rule_of_three():
    none, every = statistics.estimate(scores([0] * 100)), statistics.estimate(scores([1] * 100))
    assert none.value == none.low == 0
    assert none.high == pytest.approx(stats.binomtest(0, 100).proportion_ci(0.9, "exact").high)
    assert none.high == pytest.approx(3 / 100, abs=1e-3)
    assert (every.low, every.high) == pytest.approx((1 - none.high, 1))
    with pytest.raises(ValueError, match="over 0 trials"):
        intervals.rule_of_three(0)


def test_sign_flips_agree_with_scipys_permutation_test():
    differences = np.random.default_rng(2).normal(0.2, 0.5, 11)
    reference = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=10_000)
    assert statistics.sign_flip_p_value(differences) == pytest.approx(reference.pvalue, abs=1e-12)


def test_the_paired_bootstrap_agrees_with_scipys():
    generator = np.random.default_rng(8)
    base = generator.beta(2, 3, 200)
    tuned = np.clip(base + generator.normal(0.05, 0.2, 200), 0, 1)
    reference = stats.bootstrap(
        (tuned, base), lambda one, other, axis: one.mean(axis) - other.mean(axis), paired=True, n_resamples=4_000,
        method="percentile", rng=1,
    ).confidence_interval  # fmt: skip
    found = statistics.paired_difference(scores(base), scores(tuned))
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=3e-3)


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


def test_a_few_equal_answers_do_not_show_that_models_are_the_same():
    base, tuned = scores([0.5, 0.0, 0.25, 1.0]), scores([0.5, 0.0, 0.25, 1.0], model="tuned")
    words = statistics.paired_difference(base, tuned, continuous=False)
    assert words.low < -0.4
    assert words.high > 0.4
    assert verdicts.verdict(words, 1.0, higher_is_better=True, margin=0.03) == "not_enough_data"
    bits = statistics.paired_difference(base, tuned, continuous=True)
    assert verdicts.verdict(bits, 1.0, higher_is_better=True, margin=0.03) == "equivalent"
    assert verdicts.verdict(words, 1.0, higher_is_better=True, margin=0.03, same_model=True) == "equivalent"


def changed(num_gained, num_lost, num_items):
    """Columns of base and tuned where so many items were gained and lost; of the others half are right."""
    others = num_items - num_gained - num_lost
    same = [1] * (others // 2) + [0] * (others - others // 2)
    return [0] * num_gained + [1] * num_lost + same, [1] * num_gained + [0] * num_lost + same


def test_the_items_needed_do_tell():
    unsure = compare(*changed(10, 5, 100), margin=0.0)
    assert (unsure.verdict, unsure.raw_p_value) == ("not_enough_data", unsure.p_value)
    draws = np.random.default_rng(12).multinomial(unsure.items_needed, [0.10, 0.05, 0.85], 50)
    told = [compare(*changed(gained, lost, gained + lost + rest)).verdict == "better" for gained, lost, rest in draws]
    assert 0.65 < np.mean(told) < 0.95
    assert compare(*changed(10, 0, 100)).items_needed is None  # better: nothing is needed


def test_more_metrics_need_more_items_and_no_difference_needs_a_margin():
    pair = statistics.paired_difference(*(scores(column) for column in changed(10, 5, 100)))
    alone, among_five = (verdicts.items_needed(pair, 100, margin=0.0, num_metrics=count) for count in (1, 5))
    assert 1.3 * alone < among_five < 1.7 * alone
    none = statistics.paired_difference(*(scores(column) for column in changed(8, 8, 100)))
    assert verdicts.items_needed(none, 100, margin=0.0) is None
    small, smaller = (verdicts.items_needed(none, 100, margin=margin) for margin in (0.06, 0.03))
    assert smaller == pytest.approx(4 * small, rel=0.01)
    assert compare(*changed(8 * small // 100, 8 * small // 100, small), margin=0.06).verdict == "equivalent"


def null_columns(kind, generator, num_items):
    """Scores of two models that are equally good, and the items' clusters."""
    per_cluster = 3 if "clustered" in kind else 1
    clusters = [f"c{index // per_cluster:02}" for index in range(num_items)]
    shared = np.repeat(generator.random(num_items // per_cluster + 1), per_cluster)[:num_items]
    if "binary" in kind:
        return *(generator.random((2, num_items)) < shared), clusters  # the items of a cluster are equally hard
    if kind == "words":  # token F1: many zeros and ones, some in between
        return *np.round(np.clip(generator.normal(shared, 0.5, (2, num_items)), 0, 1) * 4) / 4, clusters
    return *(generator.normal(1.0, 0.3, (2, num_items)) + shared), clusters


KINDS = ["binary", "clustered binary", "continuous", "clustered continuous", "words", "few clusters"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_equal_models_rarely_look_different(kind):
    generator = np.random.default_rng(7)
    better = alarms = covered = 0
    trials = 1000
    for _ in range(trials):
        base, tuned, clusters = null_columns(kind, generator, 8 if kind == "few clusters" else 60)
        result = compare(base, tuned, clusters=clusters, samples=300, margin=0.0)
        better += result.verdict == "better"
        alarms += result.verdict in ("better", "worse")
        covered += result.low <= 0 <= result.high
    assert better / trials <= 0.055
    assert alarms / trials <= 0.065
    assert covered / trials >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("clustered", [False, True])
def test_several_metrics_together_rarely_look_different(clustered):
    """The whole way from the item table to the verdicts; metrics of one answer hang together as real ones do."""
    generator = np.random.default_rng(9)
    better = alarms = 0
    trials = 1000
    prefix = "clustered " if clustered else ""
    for _ in range(trials):
        items = []
        for metric, kind in (("choice_accuracy", "binary"), ("token_f1", "words"), ("bits_per_byte", "continuous")):
            base, tuned, clusters = null_columns(prefix + kind if kind != "words" else kind, generator, 60)
            if metric == "choice_accuracy":
                right = base, tuned
            elif metric == "token_f1":
                base, tuned = (np.maximum(column, known) for column, known in zip((base, tuned), right, strict=True))
            for model, column in (("base", base), ("tuned", tuned)):
                items += [
                    ItemScore(item_id=f"i{at}", cluster_id=cluster, model=model, metric=metric, value=float(value))
                    for at, (value, cluster) in enumerate(zip(column, clusters, strict=True))
                ]
        found = summarise(items, EvaluationConfig(bootstrap_samples=300, equivalence_margin=0.0))
        words = {metric.comparison.verdict for metric in found.metrics.values()}
        better += "better" in words
        alarms += bool(words & {"better", "worse"})
    assert better / trials <= 0.055
    assert alarms / trials <= 0.065


def test_same_seed_same_numbers():
    base, tuned = np.random.default_rng(3).normal(size=(2, 40))
    assert compare(base, tuned) == compare(base, tuned)
