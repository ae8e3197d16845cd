"""Words and fields of answers, by hand and against the reference implementations' figures."""

import functools
import importlib.machinery
import importlib.util
import json
import random
from pathlib import Path

import pytest

from finetune.evaluation import text_metrics

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = json.loads((Path(__file__).parent / "reference_scores.json").read_text())
"""Written by scripts/build_reference_scores with rouge-score 0.1.2 and lm-eval's copy of the SQuAD script."""


@functools.cache
def builder():
    loader = importlib.machinery.SourceFileLoader(
        "build_reference_scores", str(ROOT / "scripts" / "build_reference_scores")
    )
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("source", REFERENCE["rouge_l"])
def test_rouge_l_and_token_f1_are_those_of_the_reference_implementations(source, request):
    if source.startswith("../shared"):
        request.getfixturevalue("shared_dir")  # its twin are the sources in data/
    pairs = builder().pairs(ROOT / source, builder().SOURCES[source])
    assert len(pairs) == len(REFERENCE["rouge_l"][source]) == 120
    assert [text_metrics.rouge_l(*pair) for pair in pairs] == pytest.approx(REFERENCE["rouge_l"][source], abs=1e-11)
    assert [text_metrics.token_f1(*pair) for pair in pairs] == pytest.approx(REFERENCE["token_f1"][source], abs=1e-11)


def longest_by_table(first, second):
    """The textbook's table."""
    rows = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, start=1):
        for j, other in enumerate(second, start=1):
            rows[i][j] = rows[i - 1][j - 1] + 1 if one == other else max(rows[i - 1][j], rows[i][j - 1])
    return rows[-1][-1]


def test_the_longest_common_subsequence_is_that_of_the_table():
    draw = random.Random(4)
    for _ in range(200):
        first, second = (draw.choices("abcd", k=draw.randrange(0, 90)) for _ in range(2))
        assert text_metrics.longest_common_subsequence(first, second) == longest_by_table(first, second)


@pytest.mark.parametrize(
    ("prediction", "reference", "match", "f1", "rouge"),
    [
        ("The Supreme Court.", "supreme court", 1.0, 1.0, 0.8),
        ("thirty (30) days", "30 days", 0.0, 0.8, 0.8),
        ("days 30", "30 days", 0.0, 1.0, 0.5),
        ("no no no", "no", 0.0, 0.5, 0.5),
        ("", "yes", 0.0, 0.0, 0.0),
        ("The", "a", 1.0, 1.0, 0.0),
        ("Überweisung", "überweisung", 1.0, 1.0, 1.0),
    ],
)
def test_words(prediction, reference, match, f1, rouge):
    assert text_metrics.normalised_match(prediction, reference) == match
    assert text_metrics.token_f1(prediction, reference) == pytest.approx(f1)
    assert text_metrics.rouge_l(prediction, reference) == pytest.approx(rouge)


REFERENCE_OBJECT = '{"party": "Acme Inc.", "days": 30, "renewal": true, "notes": null}'


@pytest.mark.parametrize(
    ("prediction", "share"),
    [
        (REFERENCE_OBJECT, 1.0),
        ('```json\n{"notes": null, "renewal": true, "days": 30.0, "party": " ACME  inc"}\n```', 1.0),
        ('Here it is {as asked}: {"party": "Acme Inc.", "days": 30, "renewal": true, "notes": null} Best.', 1.0),
        ('{"party": "Acme Inc.", "days": "30", "renewal": 1, "notes": null}', 0.5),
        ('{"party": "Acme Inc.", "days": 30}', 0.5),
        ('{"party": "Acme Inc.", "days": 30, "renewal": true, "notes": null, "law": "Texas"}', 0.8),
        ('{"party": "Acme Inc.", "days": 30, "renewal": true, "notes": ', 0.0),
        ('["party"]', 0.0),
        ('{"days": NaN}', 0.0),
        ("", 0.0),
        ('{"a":' * 100_000, 0.0),
    ],
)
def test_fields_of_json_answers(prediction, share):
    assert text_metrics.json_field_accuracy(prediction, REFERENCE_OBJECT) == pytest.approx(share)


def test_nested_values_are_equal_as_a_whole():
    reference = '{"parties": [{"name": "Acme"}, {"name": "Bolt"}], "law": {"state": "Texas"}}'
    same = '{"law": {"state": "TEXAS"}, "parties": [{"name": "acme"}, {"name": "bolt."}]}'
    swapped = '{"law": {"state": "Texas"}, "parties": [{"name": "Bolt"}, {"name": "Acme"}]}'
    assert text_metrics.json_field_accuracy(same, reference) == 1.0
    assert text_metrics.json_field_accuracy(swapped, reference) == 0.5
    assert text_metrics.json_field_accuracy("{}", "{}") == 1.0
    with pytest.raises(ValueError, match="no JSON object"):
        text_metrics.json_field_accuracy("{}", "[1]")
