"""The short ways of the search for near-duplicates find what the long ones do, and long lines are split once."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.likeness import prepared_rows, row_differences
from finetune.data.likeness.misprints import common_ends
from finetune.data.likeness.near_duplicates import Match, NearDuplicateFinder, Related
from finetune.data.likeness.prepared_rows import PreparedRow, RowPreparer, split_words
from finetune.records import Conversation, Message


def _passage(rng: random.Random, words: int) -> str:
    return " ".join(f"w{rng.randrange(3000)}" for _ in range(words))


def _chat(number: int, prompt: str, answer: str) -> Conversation:
    turns = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    return Conversation(item_id=str(number), source=f"rows:{number}", messages=turns)


def _rows(count: int) -> list[Conversation]:
    """Questions about 12 contexts: in a paragraph of their own or in one line, some with a few words changed."""
    rng = random.Random(5)
    contexts = [_passage(rng, 120) for _ in range(12)]
    questions = [f"What about {_passage(rng, 5)}?" for _ in range(count // 3)]
    rows: list[Conversation] = []
    for number in range(count):
        words = contexts[number % len(contexts)].split()
        for _ in range(rng.choice([0, 0, 0, 3, 12, 40])):
            words[rng.randrange(len(words))] = "other"
        gap = rng.choice(["\n\n", "\n\n", ". ", "\ngoes on, "])
        rows.append(_chat(number, " ".join(words) + gap + rng.choice(questions), rng.choice(["yes", "no", "May 2"])))
    return rows


def _find(rows: list[Conversation]) -> tuple[list[Match], list[Related]]:
    finder = NearDuplicateFinder(0.85)
    for row in rows:
        finder.add(row)
    return finder.find(rows.__getitem__)


@pytest.mark.slow
def test_the_short_ways_change_nothing_of_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(400)
    quick = _find(rows)
    monkeypatch.setattr(PreparedRow, "holds", lambda self, tokens: False)
    monkeypatch.setattr(prepared_rows, "_SHORTEST_KEPT_CHARACTERS", 10**9)
    monkeypatch.setattr(row_differences, "_num_missing", _num_missing)
    assert _find(rows) == quick
    matches, related = quick
    assert len(matches) > 5 and len({pair.row for pair in related}) > 200


def _num_missing(passage: prepared_rows.Passage, runs: frozenset[tuple[str, ...]]) -> int:
    covered = {place + offset for place, run in enumerate(passage.runs()) if run in runs for offset in range(len(run))}
    return len(passage.tokens) - len(covered)


def test_a_context_of_many_rows_is_split_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    contexts = [_passage(rng, 150) for _ in range(10)]
    rows = [_chat(number, f"{contexts[number % 10]}\n\n{_passage(rng, 6)}?", "yes") for number in range(300)]
    counts: Counter[str] = Counter()

    def counting(text: str) -> list[str]:
        counts[text] += 1
        return split_words(text)

    monkeypatch.setattr(prepared_rows, "split_words", counting)
    _, related = _find(rows)
    assert len({pair.row for pair in related}) == 290
    assert max(counts[context] for context in contexts) <= 2  # as a piece of the prompt and as a passage


def test_what_is_kept_of_long_lines_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_rows, "_KEPT_WORDS", 1000)
    preparer = RowPreparer(lambda sentence: False)
    rng = random.Random(2)
    for number in range(100):
        preparer.prepare(_chat(number, _passage(rng, 90), "yes"))
    kept = preparer._pieces  # pyright: ignore[reportPrivateUsage]
    assert len(kept._values) == 11  # pyright: ignore[reportPrivateUsage]


WRAPPED = re.compile(r"(?<=[^\s.?!:;。？！؟])[ \t]*\n[ \t]*(?=[a-zà-ÿ])")


@given(st.text("ab A.?\n \tà÷ÿ\x0b\r:1\u2028", max_size=30))
def test_lines_that_go_on_in_lower_case_are_joined(text: str) -> None:
    joined = list(prepared_rows._joined_lines(text))  # pyright: ignore[reportPrivateUsage]
    assert joined == WRAPPED.sub(" ", text).split("\n")


@given(st.integers(0, 150), st.integers(0, 150), st.lists(st.sampled_from("abc"), max_size=4), st.data())
def test_common_ends_of_long_texts(front: int, back: int, middle: list[str], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.sampled_from("abc"), max_size=4))
    first, second = ["x"] * front + middle + ["y"] * back, ["x"] * front + other + ["y"] * back
    start, end = common_ends(first, second)
    assert first[:start] == second[:start] and start >= front
    assert first[len(first) - end :] == second[len(second) - end :] and start + end <= min(len(first), len(second))
    assert end >= min(back, min(len(first), len(second)) - start)
    assert start == min(len(first), len(second)) or first[start] != second[start]
