"""Long documents: what is skipped changes nothing, places stay right at every cut, and a megabyte takes seconds."""

import time
from random import Random

import pii_synthetic
import pytest

pytest.importorskip("presidio_analyzer")

from finetune.data.privacy import engine, excerpts
from finetune.data.privacy.engine import Finding
from finetune.data.privacy.redaction import resolve

pytestmark = pytest.mark.slow

FILLER = "The parties agree that nothing herein shall be construed as a waiver of any right. "


def _as_tuples(found: list[Finding]) -> list[tuple[int, int, str]]:
    return [(one.start, one.end, one.kind) for one in resolve(found)]


def test_skipping_loses_nothing() -> None:
    for sample in pii_synthetic.samples(per_kind=3):
        text = FILLER * 5 + sample.text + " " + FILLER * 5
        assert _as_tuples(excerpts.search(text, engine.analyze)) == _as_tuples(engine.analyze(text)), sample


def test_text_without_digits_and_signs_is_never_analyzed() -> None:
    def analyze(text: str) -> list[Finding]:
        raise AssertionError(f"analyzed {len(text)} characters")

    assert excerpts.search(FILLER * 1000, analyze) == []


def test_places_are_right_in_documents_that_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpts, "MAX_PIECE", 900)
    monkeypatch.setattr(excerpts, "OVERLAP", 300)
    monkeypatch.setattr(excerpts, "MAX_BATCH", 2000)
    random = Random(3)
    planted = [f"user{random.randrange(10**6)}@example.com" for _ in range(200)]
    dense = "".join(
        f"line {number} says {value} and {random.randrange(1000)} more\n" for number, value in enumerate(planted)
    )
    sparse = "".join(FILLER * random.randrange(4) + f"{value}\n" for value in planted)
    for text in (dense, sparse):
        found = resolve(excerpts.search(text, engine.analyze))
        assert [text[one.start : one.end] for one in found if one.kind == "email"] == planted


def test_a_private_key_longer_than_the_overlap_of_two_pieces_is_found_whole() -> None:
    key = next(s for s in pii_synthetic.samples(per_kind=40) if s.kind == "private_key" and s.end - s.start > 1500)
    text = "a1 " * 19_900 + key.text + " b2" * 20_000
    found = resolve(excerpts.search(text, engine.analyze))
    whole = text.index("-----BEGIN")
    assert any(one.start <= whole and one.end >= whole + key.end - key.start for one in found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["a-", "1-", "1 ", "a.", "9", "@", "a@", "(1", "::", "1a:", "x=1&", "-----BEGIN PRIVATE KEY-----"]
)
def test_hostile_text_takes_seconds(unit: str) -> None:
    started = time.perf_counter()
    excerpts.search(unit * (300_000 // len(unit)), engine.analyze)
    assert time.perf_counter() - started < 60


@pytest.mark.slow
def test_a_contract_of_a_megabyte_takes_seconds() -> None:
    clause = FILLER * 6 + "Notices go to j.roe@example.com, fax (212) 555-0142, under Section 12.4 of 3 May 2019.\n"
    text = clause * (1_000_000 // len(clause) + 1)
    started = time.perf_counter()
    found = resolve(excerpts.search(text, engine.analyze))
    assert time.perf_counter() - started < 30
    assert len(found) == 2 * text.count("\n")
