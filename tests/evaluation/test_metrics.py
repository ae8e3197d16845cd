"""Per-item metrics."""

import math

import pytest

from finetune.config import METRICS
from finetune.evaluation import metrics


def test_bits_per_byte_of_a_uniform_guess():
    # Two tokens of probability 1/16 over four bytes: 8 bits / 4 bytes.
    assert metrics.bits_per_byte(2 * math.log(1 / 16), 4) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="supervised text"):
        metrics.bits_per_byte(-1.0, 0)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("New York", "New York", 1.0),
        (" new\u00a0 york. \n", "New York", 1.0),
        ("ＹＥＳ", "yes", 1.0),
        ("Straße", "STRASSE", 1.0),
        ("New York State", "New York", 0.0),
        ("", "yes", 0.0),
        ("3.5", "35", 0.0),
    ],
)
def test_exact_match(prediction, reference, expected):
    assert metrics.exact_match(prediction, reference) == expected


def test_choice_takes_the_first_of_equals():
    assert metrics.choose_option([-3.0, -1.0, -1.0]) == 1
    with pytest.raises(ValueError, match="no choice"):
        metrics.choose_option([])
    with pytest.raises(ValueError, match="no choice"):
        metrics.choose_option([float("nan"), -1.0])


def test_majority_class():
    assert metrics.majority_class(["No", "yes", "Yes."]) == "yes"
    assert metrics.majority_class(["b", "a"]) == "b"
    with pytest.raises(ValueError, match="no answers"):
        metrics.majority_class([])


def test_every_metric_has_a_direction():
    assert set(metrics.HIGHER_IS_BETTER) == set(METRICS)
