"""Odd words that are misprints by the data set's own count of words, and those that are words of their own."""

import random

import pytest

from finetune.data.likeness.near_duplicates import NearDuplicateFinder
from finetune.data.likeness.vocabulary import Vocabulary, differ_by_slip
from finetune.data.likeness.word_hashes import hash_rows
from finetune.records import Conversation, Message


def _vocabulary(**counts: int) -> Vocabulary:
    vocabulary = Vocabulary()
    vocabulary.add(hash_rows([" ".join([word] * count) for word, count in counts.items()]).hashes)
    return vocabulary


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("the", "tthe"),
        ("shall", "shal"),
        ("to", "tto"),
        ("for", "fro"),
        ("of", "fo"),
        ("private", "privatc"),
        ("offer", "offen"),
        ("have", "bave"),
        ("must", "mxst"),
        ("this", "ths"),
        ("with", "wiith"),
        ("ärzte", "äzrte"),
    ],
)
def test_slips(word: str, other: str) -> None:
    assert differ_by_slip(word, other) and differ_by_slip(other, word)
    assert _vocabulary(**{word: 20, other: 1}).is_slip(word, other)
    assert _vocabulary(**{word: 20, other: 1}).is_slip(other, word)
    assert not _vocabulary(**{word: 19, other: 1}).is_slip(word, other), "too rare to be the right one"
    assert not _vocabulary(**{word: 300, other: 2}).is_slip(word, other), "too frequent to be a slip"
    assert _vocabulary(**{word: 400, other: 2}).is_slip(word, other)


@pytest.mark.parametrize(
    ("word", "other"),
    [
        ("typical", "atypical"),
        ("employer", "employee"),
        ("contract", "contracts"),
        ("ein", "kein"),
        ("nicht", "nichts"),
        ("the", "he"),
        ("iran", "iraq"),
        ("42", "43"),
        ("mg1", "mg2"),
        ("allowed", "disallowed"),
        ("", "a"),
    ],
)
def test_other_words_are_no_slips(word: str, other: str) -> None:
    assert not _vocabulary(**{word or "x": 1000, other: 1}).is_slip(word, other)


@pytest.mark.parametrize(
    ("word", "other"),
    [("for", "four"), ("may", "many"), ("form", "from"), ("must", "most"), ("of", "off")],
)
def test_real_words_are_no_slips_however_rare(word: str, other: str) -> None:
    assert differ_by_slip(word, other)
    assert not _vocabulary(**{word: 1000, other: 1}).is_slip(word, other)


def _rows(*more: tuple[str, str]) -> list[Conversation]:
    rng = random.Random(3)
    clauses = [
        f"The seller shall deliver {rng.randrange(10**6)} barrels to the port of {rng.randrange(10**6)} for the buyer"
        for _ in range(40)
    ]
    pairs = [*((f"Which type of clause is this?\n\n{clause}.", "Delivery") for clause in clauses), *more]
    return [
        Conversation(
            item_id=str(number),
            source=f"f:{number}",
            messages=(Message(role="user", content=prompt), Message(role="assistant", content=answer)),
        )
        for number, (prompt, answer) in enumerate(pairs)
    ]


CLAUSE = "The agent pays for the storage of the goods until they leave the port"


@pytest.mark.parametrize(
    ("copy", "answer", "is_same"),
    [
        (CLAUSE.replace("for the", "for tthe"), "Storage", True),
        (CLAUSE.replace("for", "fro"), "Storage", True),
        (CLAUSE.replace("storage", "stowage"), "Storage", True),
        (CLAUSE.replace("of the goods", "off the goods"), "Storage", False),
        (CLAUSE.replace("agent", "buyer"), "Storage", False),
        (CLAUSE, "for Storage", False),
    ],
)
def test_a_slip_in_a_short_clause_does_not_hide_a_copy(copy: str, answer: str, is_same: bool) -> None:
    question = "Which type of clause is this?"
    rows = _rows(
        (f"{question}\n\n{CLAUSE}.", "fro Storage" if answer != "Storage" else answer),
        (f"{question}\n\n{copy}.", answer),
    )
    finder = NearDuplicateFinder(0.85)
    for row in rows:
        finder.add(row)
    matches, _ = finder.find(rows.__getitem__)
    assert [(match.row, match.like) for match in matches] == ([(41, 40)] if is_same else [])


def test_a_date_counts_as_one_word_in_a_short_clause() -> None:
    clause = "The lease of the northern warehouse began on May 3, 2018 and has no fixed end."
    rows = _rows((clause, "Term"), (clause.replace("May 3, 2018", "October 17, 2023"), "Term"))
    finder = NearDuplicateFinder(0.85)
    for row in rows:
        finder.add(row)
    assert [(match.row, match.like) for match in finder.find(rows.__getitem__)[0]] == [(41, 40)]
