"""Leaks planted in real clauses (CUAD) and in our own: exact, near, grouped, and a run of words; all must be found."""

import ast
import csv
import functools
import random
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.data.likeness.contamination import find_contamination
from finetune.data.likeness.near_duplicates import NearDuplicateFinder
from finetune.records import Conversation, Message

pytestmark = pytest.mark.slow

QUESTION = "Which type of clause is this?"
Change = Callable[[str, random.Random], str]

_MISREAD = {"l": "1", "o": "0", "e": "c", "m": "rn", "i": "l", "h": "b", "u": "v", "n": "ri", "s": "5", "r": "n"}
_MONTH = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(rf"({_MONTH}) \d{{1,2}}, \d{{4}}")


def _other_case(text: str, rng: random.Random) -> str:
    """All capitals or each word's first; some punctuation gone (none inside numbers)."""
    changed = text.upper() if rng.random() < 0.5 else text.title()
    return re.sub(r"(?<!\d)[,;.:()\"](?!\d)", lambda found: rng.choice(["", found[0]]), changed)


def _other_lines(text: str, rng: random.Random) -> str:
    """Wrapped at another width, as text out of a .pdf is."""
    return "\n".join(textwrap.wrap(text, 60))


def _other_date(text: str, rng: random.Random) -> str:
    """Another date in each place of one."""
    return _DATE.sub("October 17, 2023", text)


def _other_party(text: str, rng: random.Random) -> str:
    """Another name for what has a capital inside sentences most often."""
    names = Counter(re.findall(r"(?<=[a-z] )[A-Z][a-z]{3,}", text))
    return re.sub(rf"\b{names.most_common(1)[0][0]}\b", "Vandelay", text) if names else text


def _misread(text: str, rng: random.Random, share: float) -> str:
    """A misread, lost, doubled or swapped letter, or an added space, in a share of the words (at least one)."""
    words = text.split(" ")
    places = [place for place, word in enumerate(words) if word.isalpha() and len(word) > 1]
    for place in rng.sample(places, min(max(1, round(share * len(text.split()))), len(places))):
        words[place] = _misread_word(words[place], rng)
    return " ".join(words)


def _misread_word(word: str, rng: random.Random) -> str:
    place = rng.randrange(len(word))
    letter, kind = word[place], rng.randrange(5)
    if kind == 0:
        return word[:place] + _MISREAD.get(letter.lower(), "x") + word[place + 1 :]
    if kind == 1 and len(word) > 2:
        return word[:place] + word[place + 1 :]
    if kind == 2 and place:
        return f"{word[:place]} {word[place:]}"
    if kind == 3 and place:
        return word[: place - 1] + letter + word[place - 1] + word[place + 1 :]
    return word[:place] + letter + word[place:]


CHANGES: dict[str, tuple[Change, float]] = {
    "the same": (lambda text, rng: text, 1.0),
    "capitals and punctuation": (_other_case, 1.0),
    "line breaks": (_other_lines, 0.99),
    "1 % misread": (functools.partial(_misread, share=0.01), 0.97),
    "2 % misread": (functools.partial(_misread, share=0.02), 0.94),
    "3 % misread": (functools.partial(_misread, share=0.03), 0.94),
    "another party": (_other_party, 0.92),
}
"""By kind of copy: how it is made, and the share that must be found as near-duplicates."""


def _row(clause: str, answer: str, number: int, question: str = QUESTION) -> Conversation:
    messages = (Message(role="user", content=f"{question}\n\n{clause}"), Message(role="assistant", content=answer))
    return Conversation(item_id=str(number), source=f"clauses:{number}", messages=messages)


@functools.cache
def _cuad_clauses(path: Path, least: int = 40, most: int = 10**6) -> list[tuple[str, str, str]]:
    """Contract, type and text of the clauses of so many words, each text once."""
    csv.field_size_limit(sys.maxsize)
    found: dict[str, tuple[str, str, str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for kind, cell in row.items():
                if kind.endswith("-Answer") or not cell.startswith("["):
                    continue
                for text in ast.literal_eval(cell):
                    if least <= len(text.split()) <= most:
                        found.setdefault(text, (row["Filename"], kind, text))
    return list(found.values())


def _own_clauses(count: int) -> list[tuple[str, str, str]]:
    """Made-up clauses of about 80 words that share their sentences' frames but little else."""
    rng = random.Random(4)
    syllables = [first + last for first in "bdfgklmnprstvz" for last in ("ane", "ero", "ilt", "ond", "usk", "ympa")]
    verbs = ["shall deliver", "may inspect", "will insure", "must return", "shall repair", "may sell", "will store"]

    def word() -> str:
        return "".join(rng.choices(syllables, k=2))

    clauses: list[tuple[str, str, str]] = []
    for number in range(count):
        party = word().capitalize()
        sentences = [
            f"On each {word()} {word()} the {party} {rng.choice(verbs)} {word()} {word()} and {word()} to the {word()} "
            f"by {word()} with {word()} {word()} or {word()}."
            for _ in range(4)
        ]
        sentences.append(f"This clause ends on May {rng.randrange(1, 29)}, {rng.randrange(1990, 2030)}.")
        clauses.append((f"contract {number}", rng.choice(verbs), " ".join(sentences)))
    return clauses


@pytest.fixture(params=["own", "cuad"])
def clauses(request: pytest.FixtureRequest) -> list[tuple[str, str, str]]:
    """Contract, type and text of at least 400 clauses."""
    if request.param == "own":
        return _own_clauses(400)
    return _cuad_clauses(request.getfixturevalue("shared_dir") / "data/legal/cuad/master_clauses.csv")


@pytest.mark.parametrize("kind", CHANGES)
def test_copies_of_test_rows_are_found_in_the_training_rows(clauses: list[tuple[str, str, str]], kind: str) -> None:
    change, wanted = CHANGES[kind]
    rng = random.Random(7)
    rng.shuffle(clauses := list(clauses))
    test, others = clauses[:60], clauses[60:360]
    copies = [change(text, rng) for _, _, text in test]
    rows = [_row(text, answer, number) for number, (_, answer, text) in enumerate([*test, *others])]
    rows += [
        _row(text, answer, 1000 + number)
        for number, (text, (_, answer, _)) in enumerate(zip(copies, test, strict=True))
    ]
    found, related = _find(rows)
    first_copy = len(test) + len(others)
    pairs = {(row, like) for row, like in found}
    caught = [number for number in range(len(test)) if first_copy + number in {row for row, _ in pairs}]
    assert len(caught) >= wanted * len(test)
    overlaps = find_contamination(
        ((str(number), text) for number, (_, _, text) in enumerate(test)),
        [(f"copy {number}", text) for number, text in enumerate(copies)],
        words=13,
    )
    seen = {*caught, *(row - first_copy for row, _ in related), *(int(overlap.item_id) for overlap in overlaps)}
    assert seen >= set(range(len(test))), "a copy was found in no way"


@pytest.mark.parametrize("kind", ["1 % misread", "3 % misread"])
def test_most_misread_copies_of_short_clauses_are_found(shared_dir: Path, kind: str) -> None:
    clauses = _cuad_clauses(shared_dir / "data/legal/cuad/master_clauses.csv", least=12, most=24)
    rng = random.Random(7)
    rng.shuffle(clauses)
    test, others = clauses[:250], clauses[250:1250]
    copies = [CHANGES[kind][0](text, rng) for _, _, text in test]
    planted = [(copy, answer) for copy, (_, answer, text) in zip(copies, test, strict=True) if copy != text]
    known = [(text, answer) for _, answer, text in [*test, *others]]
    rows = [_row(text, answer, number) for number, (text, answer) in enumerate([*known, *planted])]
    found, _ = _find(rows)
    assert len({row for row, _ in found if row >= len(known)}) >= 0.67 * len(planted)


def test_a_changed_date_does_not_hide_a_copy(clauses: list[tuple[str, str, str]]) -> None:
    rng = random.Random(1)
    dated = [clause for clause in clauses if _DATE.search(clause[2]) and "\n" not in clause[2]][:40]
    rows = [_row(text, answer, number) for number, (_, answer, text) in enumerate(dated)]
    rows += [_row(_other_date(text, rng), answer, 100 + number) for number, (_, answer, text) in enumerate(dated)]
    found, _ = _find(rows)
    assert len({row for row, _ in found if row >= len(dated)}) >= 0.85 * len(dated)


def test_questions_about_one_clause_are_kept_and_grouped(clauses: list[tuple[str, str, str]]) -> None:
    texts = [clause for clause in clauses if "\n" not in clause[2]][:80]
    questions = ["Which law governs?", "Is assignment allowed?", "Is subletting allowed?", "Who pays the insurance?"]
    rows = [
        _row(text, "Not stated", len(questions) * number + place, question)
        for number, (_, _, text) in enumerate(texts)
        for place, question in enumerate(questions)
    ]
    found, related = _find(rows)
    # One text may repeat another with the same question; no two questions are the same.
    assert all(row % len(questions) == like % len(questions) for row, like in found)
    grouped = {row for pair in related for row in pair} | {row for row, _ in found}
    assert grouped == set(range(len(rows)))


def test_a_run_of_twenty_words_inside_a_longer_row_is_found(clauses: list[tuple[str, str, str]]) -> None:
    rng = random.Random(3)
    contracts = sorted({contract for contract, _, _ in clauses})
    test_contracts = set(rng.sample(contracts, len(contracts) // 5))
    test = [text for contract, _, text in clauses if contract in test_contracts][:60]
    training = [text.split() for contract, _, text in clauses if contract not in test_contracts]
    for text in test:
        words, host = text.split(), rng.choice(training)
        start, place = rng.randrange(len(words) - 20), rng.randrange(len(host))
        host[place:place] = words[start : start + 20]
    items = [(str(number), text) for number, text in enumerate(test)]
    rows = [(f"row {number}", " ".join(words)) for number, words in enumerate(training)]
    found = find_contamination(items, rows, words=13)
    assert {overlap.item_id for overlap in found} == {item_id for item_id, _ in items}
    assert sum(overlap.longest_match_words >= 18 for overlap in found) >= 0.95 * len(test)


def test_own_clauses_give_no_false_alarm() -> None:
    clauses = _own_clauses(1000)
    assert _find([_row(text, answer, number) for number, (_, answer, text) in enumerate(clauses)]) == ([], [])
    texts = [(str(number), text) for number, (_, _, text) in enumerate(clauses)]
    assert find_contamination(texts[:200], texts[200:], words=13) == []


def _find(rows: list[Conversation]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    finder = NearDuplicateFinder(0.85)
    for row in rows:
        finder.add(row)
    matches, related = finder.find(rows.__getitem__)
    return [(match.row, match.like) for match in matches], [(pair.row, pair.like) for pair in related]
