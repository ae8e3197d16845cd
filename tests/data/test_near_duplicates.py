"""Which rows count as near-duplicates, which as related, and that the search is quick, small and repeatable."""

import random
import subprocess
import sys
import time

import pytest

from finetune.data.likeness.minhash_bands import CANDIDATES_PER_ROW
from finetune.data.likeness.misprints import is_misprint
from finetune.data.likeness.near_duplicates import Match, NearDuplicateFinder, Related
from finetune.data.likeness.word_hashes import hash_rows, locate_words
from finetune.records import Conversation, Message

CONTEXT = (
    "This agreement shall be governed by the laws of the State of New York without regard to its conflict of laws "
    "principles, and each party submits to the exclusive jurisdiction of the courts in the Borough of Manhattan."
)


def _chat(prompt: str, answer: str, *, system: str = "") -> Conversation:
    messages = (Message(role="user", content=prompt), Message(role="assistant", content=answer))
    if system:
        messages = (Message(role="system", content=system), *messages)
    return Conversation(item_id=prompt, source="rows:1", messages=messages)


def _text(text: str) -> Conversation:
    return Conversation(item_id=text[:10], source="rows:1", text=text)


def _find(*rows: Conversation, similarity: float = 0.85, seed: int = 0) -> tuple[list[Match], list[Related]]:
    finder = NearDuplicateFinder(similarity, seed)
    for row in rows:
        finder.add(row)
    return finder.find(rows.__getitem__)


def _passage(seed: int, words: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(30_000)}" for _ in range(words))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("What is the capital of France?", "Paris"), ("what is the capital of  FRANCE", "paris.")),
        (("What is 6*7?", "42"), ("What is 6 * 7 ?", "42")),
        (("Ｗｈａｔ is the capital of France?", "Paris"), ("What is the capital of France?", "Paris")),
        (("Name the largest planet of our system.", "Jupiter"), ("Name the largest planett of our system.", "Jupiter")),
        (("这份合同适用哪个国家的法律？请回答。", "中国法律"), ("这份合同适用哪个国家的法律? 请回答", "中国法律。")),
        (("ما هو القانون الذي يحكم هذا العقد؟", "قانون مصر"), ("ما هو القانون الذي يحكم هذا العقد", "قانون مصر.")),
        (("Welches Recht gilt für den Vertrag?", "Öst. Recht"), ("WELCHES RECHT GILT FÜR DEN VERTRAG?", "öst. Recht")),
        ((f"{CONTEXT}\n\nWhich law?", "Ohio's"), (f"{CONTEXT.replace('Manhattan', 'Queens')}\n\nWhich law?", "Ohio's")),
    ],
)  # fmt: skip
def test_rows_that_say_the_same(first: tuple[str, str], second: tuple[str, str]) -> None:
    matches, related = _find(_chat(*first), _chat(*second))
    assert [(match.row, match.like) for match in matches] == [(1, 0)]
    assert matches[0].similarity >= 0.85
    assert related == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("What is 6*7?", "42"), ("What is 6*7?", "43")),
        (("What is 6*7?", "42"), ("What is 6+7?", "42")),
        (("Is aspirin allowed?", "Yes"), ("Is heroin allowed?", "Yes")),
        (("Is the employer liable for damage?", "Yes"), ("Is the employee liable for damage?", "Yes")),
        (("Is an atypical course likely here?", "Yes"), ("Is a typical course likely here?", "Yes")),
        (("Is A liable to B?", "Yes"), ("Is B liable to A?", "Yes")),
        (("Sodium 128 mmol/l, range 135 to 145. Low?", "Low"), ("Sodium 129 mmol/l, range 135 to 145. Low?", "Low")),
        (("Name the drug class of atenolol.", "Beta blocker"), ("Name the drug class of metoprolol.", "Beta blocker")),
        (("Return some", "return [n for n in ns if n > 5]"), ("Return some", "return [n for n in ns if n >= 5]")),
        (("Which is right?\nA. Paris\nB. Rome", "Paris"), ("Which is right?\nA. Paris\nB. Oslo", "Paris")),
        (("这份合同适用哪个国家的法律？", "中国"), ("这份合同适用哪个地区的法律？", "中国")),
    ],
)  # fmt: skip
def test_rows_that_differ_in_what_counts(first: tuple[str, str], second: tuple[str, str]) -> None:
    assert _find(_chat(*first), _chat(*second)) == ([], [])


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Which court is competent?", "New York"), ("Which law governs?", "Delaware"), ("Is it long?", "Yes")],
)
def test_another_question_or_answer_about_one_text_is_related(question: str, answer: str) -> None:
    rows = _chat(f"{CONTEXT}\n\nWhich law governs?", "New York"), _chat(f"{CONTEXT}\n\n{question}", answer)
    assert _find(*rows) == ([], [Related(1, 0)])
    in_one_line = [_chat(f"{CONTEXT} {row.messages[0].content.split(chr(10))[-1]}", row.answer) for row in rows]
    assert _find(*in_one_line) == ([], [Related(1, 0)])


def test_changed_amounts_in_long_texts_are_related_and_changed_dates_the_same() -> None:
    row = _chat(f"{CONTEXT} The fee is 500 dollars.\n\nWhich law governs?", "New York")
    assert _find(row, _chat(row.messages[0].content.replace("500", "600"), "New York")) == ([], [Related(1, 0)])
    dated = _chat(f"{CONTEXT} It was signed on May 3, 2018.\n\nWhich law governs?", "New York")
    matches, _ = _find(dated, _chat(dated.messages[0].content.replace("May 3, 2018", "June 12, 2019"), "New York"))
    assert [match.row for match in matches] == [1]


def test_plain_texts_are_compared_as_a_whole() -> None:
    text = _passage(1, 300)
    words = text.split()
    words[50], words[150:153] = "other", []
    matches, related = _find(_text(text), _text(_passage(2, 300)), _text(" ".join(words)))
    assert [(match.row, match.like) for match in matches] == [(2, 0)]
    assert matches[0].similarity == pytest.approx(1 - 4 / 300, abs=0.002)
    assert related == []
    assert _find(_text(text), _text(" ".join(words)), similarity=0.99)[0] == []


def test_long_texts_that_share_three_quarters_are_not_the_same() -> None:
    half = _passage(1, 500)
    answers = [f"{half} {_passage(row, 150)} {half[:200]}" for row in (2, 3)]
    assert _find(*map(_text, answers))[0] == []
    assert _find(*(_chat("Write a story", answer) for answer in answers))[0] == []


def test_repetitions_are_matched_with_the_first_that_is_kept() -> None:
    words = _passage(1, 100).split()
    rows = [_text(" ".join([*words[:90], *(f"x{row}" for row in range(place))])) for place in (0, 10, 20)]
    matches, _ = _find(rows[0], rows[1], rows[2], rows[0], similarity=0.85)
    # Row 2 is near row 1, which repeats row 0; to row 0 it is not near enough, so it stays.
    assert [(match.row, match.like) for match in matches] == [(1, 0), (3, 0)]


def test_a_long_instruction_that_all_rows_share_relates_none_of_them() -> None:
    instruction = f"You are a helpful assistant. {_passage(9, 150)}."
    rows = [
        _chat(f"{instruction}\n\n{_passage(100 + row, 12)}", f"answer {row}", system=instruction) for row in range(300)
    ]
    rows.append(_chat(rows[7].messages[1].content.upper(), "Answer 7!", system=instruction))
    matches, related = _find(*rows)
    assert [(match.row, match.like) for match in matches] == [(300, 7)]
    assert related == []


def test_the_same_seed_gives_the_same_result_in_another_process() -> None:
    rows = [_text(_passage(row % 60, 40) + f" end {row}") for row in range(120)]
    assert _find(*rows) == _find(*rows)
    program = (
        "from finetune.data.likeness.word_hashes import hash_rows; print(hash_rows(['Hello, World', 'ÄÖ 你好']).hashes)"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert len(outputs) == 1


def test_words_are_the_same_however_texts_are_batched() -> None:
    texts = ["Hello, World!", "", "你好 world", "नमस्ते दुनिया", "x" * 300_000 + " end " + _passage(1, 60_000)]
    together = hash_rows(texts)
    for row, text in enumerate(texts):
        own = hash_rows([text])
        start, end = together.offsets[row : row + 2]
        assert together.hashes[start:end].tolist() == own.hashes.tolist()
        assert len(locate_words(text)[0]) == len(own.hashes)
    assert [len(hash_rows([text]).hashes) for text in texts[:4]] == [2, 0, 3, 2]


def test_rows_of_one_context_take_time_in_proportion() -> None:
    rows = [_chat(f"{_passage(row % 20, 200)}\n\n{_passage(1000 + row, 8)}?", "yes") for row in range(500)]
    read_rows: list[int] = []
    finder = NearDuplicateFinder(0.85)
    for row in rows:
        finder.add(row)

    def read(number: int) -> Conversation:
        read_rows.append(number)
        return rows[number]

    started = time.process_time()
    matches, related = finder.find(read)
    assert matches == []
    assert len({pair.row for pair in related}) == 500 - 20
    assert len(read_rows) <= (1 + CANDIDATES_PER_ROW) * len(rows)
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    ("word", "other", "expected"),
    [
        ("agreement", "agreernent", True),
        ("clause", "c1ause", True),
        ("governed", "govemed", True),
        ("liability", "liabliity", True),
        ("party's", "partys", True),
        ("42", "43", False),
        ("x1", "x2", False),
        ("10mg", "100mg", False),
        ("typical", "atypical", False),
        ("employer", "employee", False),
        ("hyperglycemia", "hypoglycemia", False),
        ("not", "nor", False),
    ],
)
def test_misprints_and_other_words(word: str, other: str, expected: bool) -> None:
    assert is_misprint(word, other) is expected
    assert is_misprint(other, word) is expected


@pytest.mark.slow
def test_memory_of_two_hundred_thousand_rows_stays_small() -> None:
    """In a process of its own: one that has done much else gives back and takes memory as it likes."""
    done = subprocess.run([sys.executable, "-c", _MANY_ROWS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000_000


_MANY_ROWS = """
import random
import psutil
from finetune.data.likeness.near_duplicates import NearDuplicateFinder
from finetune.records import Conversation

rng, process, finder = random.Random(0), psutil.Process(), NearDuplicateFinder(0.85)
texts = [" ".join(f"w{rng.randrange(30_000)}" for _ in range(100)) for _ in range(200)]
add = lambda text: finder.add(Conversation(item_id="i", source="rows:1", text=text))
for text in texts:
    add(text)
before = peak = process.memory_info().rss
for row in range(200_000):
    add(f"{texts[row % 200][:250]} {row} {row * 7} {row * 13}")
    if row % 10_000 == 0:
        peak = max(peak, process.memory_info().rss)
print(peak - before)
"""
