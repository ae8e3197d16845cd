"""The headline: which metric decides, and that each can be said in a sentence."""

import random

import pytest

from finetune.config import METRICS, EvaluationConfig
from finetune.evaluation import summary, wording
from finetune.records import ItemScore


@pytest.mark.parametrize("name", [name for name in METRICS if name != "calibration_error"])
def test_every_metric_can_carry_the_headline(name):
    lower = name == "bits_per_byte"
    items = [
        ItemScore(item_id=f"i{at}", cluster_id=f"i{at}", model=model, metric=name, value=value + (at % 3 == 0) * 0.1)
        for model, value in (("base", 0.8 if lower else 0.2), ("tuned", 0.2 if lower else 0.8))
        for at in range(100)
    ]
    found = wording.explain(summary.summarise(items, EvaluationConfig(bootstrap_samples=500)))
    assert found.headline.startswith("Tuning helped: ")
    assert name not in found.headline
    assert "100 " in found.headline


def harmed(metric):
    """Choices that show nothing, and another metric that became worse."""
    draw = random.Random(1)
    items = []
    for at in range(60):
        for model, level in (("base", 0.4), ("tuned", 0.9)):
            values = {"choice_accuracy": float(draw.random() < 0.25), metric: level + draw.gauss(0, 0.05)}
            items += [
                ItemScore(item_id=f"i{at}", cluster_id=f"i{at}", model=model, metric=one, value=value)
                for one, value in values.items()
            ]
    return wording.explain(summary.summarise(items, EvaluationConfig(bootstrap_samples=500)))


def test_harm_is_the_headline_where_the_main_metric_cannot_tell():
    found = harmed("bits_per_byte")
    assert found.verdict == "worse"
    assert found.headline.startswith("Tuning did harm: the tuned model needs 0.895 bits")
    assert "Measured by right choice, this test is too small to tell." in found.remarks
    assert harmed("token_f1").verdict == "not_enough_data"  # a gain there, which does not decide
