"""The calibration error against its definition, its interval and test, and the curve."""

import math

import numpy as np
import pytest

from finetune.config import EvaluationConfig
from finetune.evaluation import calibration, metrics, summary, verdicts
from finetune.records import ItemScore


def answers(confidences, right, clusters=None):
    clusters = clusters if clusters is not None else [f"c{at:03}" for at in range(len(right))]
    return calibration.Judged(
        confidences=np.array(confidences, dtype=float),
        right=np.array(right, dtype=float),
        clusters=np.array(clusters),
    )


def simulated(generator, num_items, *, sharpness=1.0, per_cluster=1):
    """Answers of a calibrated model (sharpness 1) or of one whose confidence is too high (above 1)."""
    confidences = generator.uniform(0.3, 1.0, num_items)
    right = generator.random(num_items) < confidences**sharpness
    return answers(confidences, right, [f"c{at // per_cluster:03}" for at in range(num_items)])


def by_definition(confidences, right):
    """Guo et al. 2017, equations 2 and 3, in a loop over ten bins (low, high]."""
    error = 0.0
    for number in range(10):
        inside = [at for at, value in enumerate(confidences) if number / 10 < value <= (number + 1) / 10]
        if inside:
            accuracy = sum(right[at] for at in inside) / len(inside)
            confidence = sum(confidences[at] for at in inside) / len(inside)
            error += len(inside) / len(confidences) * abs(accuracy - confidence)
    return error


def test_the_error_is_that_of_the_definition():
    generator = np.random.default_rng(0)
    for _ in range(20):
        found = simulated(generator, 50, sharpness=2.0, per_cluster=4)
        expected = by_definition(found.confidences, found.right)
        assert calibration.expected_calibration_error(found) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("confidences", "right", "error"),
    [
        ([1.0, 1.0], [1, 1], 0.0),
        ([1.0, 1.0], [0, 0], 1.0),
        ([0.5, 0.5], [1, 0], 0.0),
        ([0.75, 0.75, 0.25], [1, 0, 0], 2 / 3 * 0.25 + 1 / 3 * 0.25),
        ([0.3, 0.31], [1, 0], 0.5 * 0.7 + 0.5 * 0.31),  # 0.3 belongs to (0.2, 0.3]
    ],
)
def test_errors_by_hand(confidences, right, error):
    assert calibration.expected_calibration_error(answers(confidences, right)) == pytest.approx(error)


def test_the_curve_gives_the_error():
    found = simulated(np.random.default_rng(1), 300, sharpness=1.5)
    curve = calibration.reliability(found)
    assert sum(one.n for one in curve) == 300
    assert all(one.low < one.confidence <= one.high and 0 <= one.accuracy <= 1 for one in curve)
    error = sum(one.n / 300 * abs(one.accuracy - one.confidence) for one in curve)
    assert calibration.expected_calibration_error(found) == pytest.approx(error)


def test_confidence_is_the_softmax_over_the_options():
    values = [-3.0, -1.0, -2.5]
    shares = [math.exp(value) / sum(map(math.exp, values)) for value in values]
    assert metrics.confidence(values) == pytest.approx(max(shares))
    assert metrics.confidence([-4000.0, -4001.0]) == pytest.approx(1 / (1 + math.exp(-1)))


def test_one_overconfident_model_is_seen():
    generator = np.random.default_rng(2)
    base = simulated(generator, 400)
    tuned = answers(np.minimum(1.0, base.confidences + 0.25), base.right)
    paired = calibration.calibration_difference(base, tuned, samples=1000)
    assert paired.low > 0.1
    assert paired.p_value < 0.01
    assert verdicts.verdict(paired, paired.p_value, higher_is_better=False, margin=0.03) == "worse"
    back = calibration.calibration_difference(tuned, base, samples=1000)
    assert verdicts.verdict(back, back.p_value, higher_is_better=False, margin=0.03) == "better"
    same = calibration.calibration_difference(base, base, samples=1000)
    assert (same.difference, same.low, same.high, same.p_value, same.identical) == (0, 0, 0, 1, True)


def test_the_interval_holds_the_value_and_one_cluster_has_none():
    found = calibration.estimate_calibration(simulated(np.random.default_rng(3), 200, sharpness=2), samples=1000)
    assert 0 <= found.low < found.value < found.high < 1
    alone = calibration.estimate_calibration(answers([0.9, 0.8], [1, 0], ["one", "one"]), samples=100)
    assert alone.low == alone.value == alone.high


def test_calibration_comes_from_the_item_table():
    generator = np.random.default_rng(5)
    items = []
    for model in ("base", "tuned"):
        found = simulated(generator, 60)
        for metric, column in (("choice_accuracy", found.right), (metrics.CHOICE_CONFIDENCE, found.confidences)):
            items += [
                ItemScore(item_id=f"i{at}", cluster_id=f"c{at}", model=model, metric=metric, value=float(value))
                for at, value in enumerate(column)
            ]
    result = summary.summarise(items, EvaluationConfig(bootstrap_samples=200))
    assert list(result.metrics) == ["choice_accuracy", "calibration_error"]
    values = {name: [item.value for item in items if (item.model, item.metric) == ("base", name)]
              for name in ("choice_accuracy", "choice_confidence")}  # fmt: skip
    estimate = result.metrics["calibration_error"].estimates["base"]
    assert estimate.value == pytest.approx(by_definition(values["choice_confidence"], values["choice_accuracy"]))
    assert estimate.n == 60
    assert sum(one.n for one in result.calibration["tuned"]) == 60
    assert summary.summary_from_json(summary.summary_to_json(result)) == result


@pytest.mark.slow
@pytest.mark.parametrize("per_cluster", [1, 4])
def test_equally_calibrated_models_rarely_look_different(per_cluster):
    generator = np.random.default_rng(11)
    better = alarms = 0
    trials = 1000
    for _ in range(trials):
        base, tuned = (simulated(generator, 80, sharpness=1.4, per_cluster=per_cluster) for _ in range(2))
        paired = calibration.calibration_difference(base, tuned, samples=400)
        word = verdicts.verdict(paired, paired.p_value, higher_is_better=False, margin=0.0)
        better += word == "better"
        alarms += word in ("better", "worse")
    assert better / trials <= 0.055
    assert alarms / trials <= 0.065
