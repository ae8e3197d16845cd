"""What is found of made-up personal data, kind by kind; the figures in docs/privacy.md come from the same measure."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pii_synthetic
import pytest

pytest.importorskip("presidio_analyzer")

from finetune.data.privacy import measured_recall
from finetune.data.privacy.engine import KINDS

pytestmark = pytest.mark.bar("S10")

ROOT = Path(__file__).resolve().parents[3]
SLACK = 0.05
"""What a smaller draw, or another version of a library, may find less than the measured share."""


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    specification = importlib.util.spec_from_file_location("bench_pii", ROOT / "benchmarks" / "bench_pii.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    yield module


def test_every_kind_has_sentences_and_a_stated_recall() -> None:
    assert set(measured_recall()) == set(KINDS) == {sample.kind for sample in pii_synthetic.samples(per_kind=1)}


def test_the_set_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    assert pii_synthetic.samples(per_kind=3) == pii_synthetic.samples(per_kind=3)
    assert pii_synthetic.samples(per_kind=3) != pii_synthetic.samples(per_kind=3, seed=1)


def test_a_value_stands_where_its_sample_says() -> None:
    for sample in pii_synthetic.samples(per_kind=4):
        assert sample.text[sample.start : sample.end].strip() == sample.text[sample.start : sample.end] != ""


@pytest.mark.slow
def test_known_sentences_are_found(bench: ModuleType) -> None:
    rows = bench.measure(pii_synthetic.samples(per_kind=10, held_out=False), pii_synthetic.DECOYS)
    assert sum(row["recall"] for row in rows.values()) / len(rows) > 0.97
    assert min(row["precision"] for row in rows.values()) >= 0.8


@pytest.mark.slow
def test_recall_is_at_least_what_the_docs_state(bench: ModuleType) -> None:
    stated = measured_recall()
    rows = bench.measure(pii_synthetic.samples(seed=pii_synthetic.SEED + 1), pii_synthetic.DECOYS)
    assert all(row["n"] >= 100 for row in rows.values())
    short = {kind: (row["recall"], stated[kind]) for kind, row in rows.items() if row["recall"] < stated[kind] - SLACK}
    assert not short
    assert min(row["precision"] for row in rows.values()) >= 0.9


def test_docs_quote_the_measured_figures() -> None:
    text = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    figures = json.loads((ROOT / "benchmarks" / "pii.json").read_text(encoding="utf-8"))
    for kind, row in figures["kinds"].items():
        assert f"| {kind} | {row['n']} | {row['recall']:.3f} | {row['precision']:.3f} |" in text
    assert figures["not_found"].split(":")[1].split(";")[0].strip() in " ".join(text.split())
