"""Which items count as contaminated, and how benchmark files are read."""

import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from finetune.data.likeness.contamination import Item, Overlap, benchmark_items, find_contamination


def _words(start: int, end: int) -> str:
    return " ".join(f"word{number}" for number in range(start, end))


def _find(
    items: Sequence[Item | tuple[str, str]], training: list[tuple[str, str]], words: int = 13
) -> dict[str, Overlap]:
    return {overlap.item_id: overlap for overlap in find_contamination(items, training, words=words)}


def test_the_longest_run_is_measured_word_by_word() -> None:
    item = ("item", _words(0, 50))
    training = [("a", _words(0, 12)), ("b", f"x {_words(5, 25).upper()}, y"), ("c", f"{_words(30, 44)} z")]
    overlap = _find([item], training)["item"]
    assert overlap.longest_match_words == 20
    assert overlap.source == "b"
    assert overlap.matched_share == pytest.approx((20 + 14) / 50)
    assert overlap.excerpt.startswith("WORD5 WORD6") and overlap.excerpt.endswith("WORD24")
    assert _find([item], training, words=21) == {}


def test_runs_do_not_go_on_into_the_next_row() -> None:
    assert _find([("item", _words(0, 20))], [("a", _words(0, 10)), ("b", _words(10, 20))]) == {}


def test_short_items_count_as_a_whole() -> None:
    items = [
        ("five", "who wrote the long letter"),
        ("four", "who wrote it then"),
        ("part", "who wrote the short letter today"),
    ]
    training = [("row", "Please tell me who wrote the long letter, who wrote it then, and who wrote the short letter.")]
    found = _find(items, training)
    assert [*found] == ["five"]
    assert found["five"].matched_share == 1.0


def test_long_excerpts_are_cut() -> None:
    overlap = _find([("item", _words(0, 100))], [("row", _words(0, 100))])["item"]
    assert len(overlap.excerpt) == 200
    assert overlap.longest_match_words == 100


def test_templates_of_the_data_set_do_not_count() -> None:
    template = "Read the following clause of a commercial contract and name its type in a few words please"
    training = [(f"row {row}", f"{template}: {_words(100 * row, 100 * row + 20)}") for row in range(40)]
    items = [(f"item {row}", f"{template}: {_words(9000 + 100 * row, 9020 + 100 * row)}") for row in range(5)]
    assert _find(items, training) == {}
    leaked = ("leaked", f"{template}: {_words(300, 320)}")
    assert [*_find([*items, leaked], training)] == ["leaked"]


def test_what_most_items_have_in_common_does_not_count() -> None:
    instruction = "Answer with one letter after you have weighed every one of the options that are given"
    items = [(f"item {row}", f"{instruction} {_words(100 * row, 100 * row + 10)}") for row in range(30)]
    assert _find(items, [("row", f"{instruction} {_words(5000, 5010)}")]) == {}


def test_lettered_options_do_not_count_as_words() -> None:
    rng = random.Random(0)

    def row(number: int) -> str:
        first = rng.randrange(40)
        lines = "\n".join(f"{'ABCDEFGH'[place]}. label{first + place}" for place in range(8))
        return f"{_words(20 * number, 20 * number + 12)}\n{lines}"

    items = [(f"item {number}", row(number)) for number in range(60)]
    training = [(f"row {number}", row(1000 + number)) for number in range(300)]
    assert _find(items, training) == {}


def _choice(number: int, question: str, labels: list[str], answer: str) -> Item:
    options = "\n".join(f"{'ABCDEFGH'[place]}. {label}" for place, label in enumerate(labels))
    return Item(f"item {number}", f"{question}\n{options}\n{answer}", options)


LABELS = [
    f"the {first} {last}" for first in ("cap on", "term of", "law of") for last in ("loss", "lease", "sale", "use")
]


def test_options_that_an_item_shares_with_a_row_do_not_count_by_themselves() -> None:
    rows = [
        (f"row {start}", _choice(start, _words(9000, 9020), LABELS[start : start + 5], "x").text) for start in range(8)
    ]
    items = [
        _choice(start, _words(100 * start, 100 * start + 15), LABELS[start : start + 5], "x") for start in range(8)
    ]
    assert _find([*items], rows) == {}
    assert len(_find([(item.item_id, item.text) for item in items], rows)) == 8, "as plain texts they share the list"


def test_a_question_is_found_with_its_options() -> None:
    long = _choice(1, _words(0, 9), ["north of it", "south of it", "east of it"], "south of it")
    short = _choice(2, "who wrote the long letter", ["the elder brother", "the younger sister", "nobody"], "nobody")
    bare = _choice(3, "it is", ["blue as the sea at noon", "green as the hills of May"], "blue as the sea at noon")
    rows = [(f"row {item.item_id}", f"Here it comes. {item.text} That was it.") for item in (long, short, bare)]
    assert [*_find([long, short, bare], rows)] == ["item 1", "item 2", "item 3"]
    assert _find([short], [("row", f"{_words(0, 20)} {short.options}")]) == {}


def test_chinese_is_compared_by_characters() -> None:
    text = "本合同受中华人民共和国法律管辖并依其解释任何争议均应提交北京仲裁委员会仲裁"
    assert _find([("item", text)], [("row", f"前言。{text[:20]}，其他。")])["item"].longest_match_words == 20


def test_an_item_without_words_and_no_training_rows() -> None:
    assert _find([("empty", ""), ("item", _words(0, 20))], []) == {}
    assert _find([], [("row", _words(0, 20))]) == {}


Write = Callable[[str, str | bytes | Iterable[object]], str]


def test_benchmark_files_give_all_their_text(write: Write) -> None:
    path = write(
        "bench.jsonl",
        [
            {"id": "q1", "question": "Which law?", "choices": {"text": ["New York", "Ohio"], "label": ["A", "B"]}},
            {"question": "How much?", "options": ["one", "two"], "answer": 2, "category": "sums", "context": None},
        ],
    )
    assert list(benchmark_items(path)) == [
        ("q1", "Which law?\nNew York\nOhio", "New York\nOhio"),
        ("bench.jsonl:2", "How much?\none\ntwo", "one\ntwo"),
    ]


def test_real_benchmark_files_are_read(shared_dir: Path) -> None:
    items = list(benchmark_items(str(shared_dir / "data/medical/pubmedqa_train.json")))
    assert len(items) == 500
    assert all(len(item.text.split()) > 50 for item in items)
    assert len(list(benchmark_items(str(shared_dir / "data/general/openbookqa.jsonl")))) == 500
