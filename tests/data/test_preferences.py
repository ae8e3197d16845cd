"""Compared answers (chosen/rejected) and rated ones (label): what is read, what is rejected, and the ledger."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from finetune.config import DataConfig, DataFormat
from finetune.data.preferences import read_preferences
from finetune.errors import DataError
from finetune.records import Message, PreferencePair, RatedAnswer

USER, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "hi"), ("assistant", "ho"), ("assistant", "no"))
)
HUMAN, GPT = {"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}


@pytest.fixture
def read(write: Callable[..., str]) -> Callable[..., tuple[list[Any], Any]]:
    def read_rows(*rows: Mapping[str, object], **options: Any) -> tuple[list[Any], Any]:
        return read_preferences(DataConfig(path=write("f.jsonl", rows), **options))

    return read_rows


def said(turns: tuple[Message, ...]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in turns]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": "ho", "rejected": "no"},
        {"question": "hi", "chosen": "ho", "rejected": "no"},
        {"instruction": "hi", "input": "", "chosen": "ho", "rejected": "no"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "ho", "rejected": BAD},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": "hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD], "messages": [USER, GOOD]},
        {"conversations": [HUMAN], "chosen": GPT, "rejected": {"from": "gpt", "value": "no"}},
        {"chosen": "\n\nHuman: hi\n\nAssistant: ho", "rejected": "\n\nHuman: hi\n\nAssistant: no"},
        {"prompt": "\n\nHuman: hi\n\nAssistant:", "chosen": " ho", "rejected": " no"},
        {"Prompt": json.dumps([USER]), "chosen": json.dumps([GOOD]), "rejected": json.dumps([BAD])},
    ],
)
def test_pairs_in_the_ways_data_sets_write_them(read: Any, row: dict[str, object]) -> None:
    [pair], ledger = read(row)
    assert isinstance(pair, PreferencePair)
    assert said(pair.prompt) == [("user", "hi")]
    assert [(turn.role, turn.content.strip()) for turn in pair.chosen] == [("assistant", "ho")]
    assert [(turn.role, turn.content.strip()) for turn in pair.rejected] == [("assistant", "no")]
    assert (ledger.rows_in, ledger.rows_used) == (1, 1)
    assert ledger.sources["train"]["format"] == "preference"


def test_long_chats_share_what_they_begin_with(read: Any) -> None:
    start = [USER, GOOD, {"role": "user", "content": "and?"}]
    [pair], _ = read(
        {"chosen": [*start, GOOD], "rejected": [*start, BAD, USER, BAD], "system": "S", "id": 7, "group": "g"}
    )
    assert said(pair.prompt) == [("system", "S"), ("user", "hi"), ("assistant", "ho"), ("user", "and?")]
    assert said(pair.rejected) == [("assistant", "no"), ("user", "hi"), ("assistant", "no")]
    assert (pair.item_id, pair.group, pair.source) == ("7", "g", "f.jsonl:1")


def test_transcripts_are_taken_apart_turn_by_turn(read: Any) -> None:
    """hh-rlhf: two transcripts that part at an answer; a colon inside a turn opens none."""
    start = "\n\nHuman: Is this so:\nHuman: 1?\n\nAssistant: It is.\n\nMore of it.\n\nHuman: And 法律?\n\nAssistant:"
    [pair], ledger = read(
        {"chosen": f"{start} Yes.", "rejected": f"{start} No.\n\nHuman: Why?\n\nAssistant: So."},
        {"chosen": f"{start} Yes.", "rejected": start},
    )
    assert said(pair.prompt) == [
        ("user", "Is this so:\nHuman: 1?"),
        ("assistant", "It is.\n\nMore of it."),
        ("user", "And 法律?"),
    ]
    assert said(pair.chosen) == [("assistant", "Yes.")]
    assert said(pair.rejected) == [("assistant", "No."), ("user", "Why?"), ("assistant", "So.")]
    assert ledger.rejected["empty_answer"] == 1


def test_a_supervised_run_is_told_what_to_do_with_transcripts(write: Callable[..., str]) -> None:
    from finetune.data.read import read_splits

    row = {"chosen": "\n\nHuman: hi\n\nAssistant: ho", "rejected": "\n\nHuman: hi\n\nAssistant: no"}
    with pytest.raises(DataError, match=r"write each row as .*its answers are transcripts, which no mapping can join"):
        read_splits(DataConfig(path=write("hh.jsonl", [row] * 3)), seed=0)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "completion": "ho", "label": True},
        {"prompt": [USER], "completion": [GOOD], "label": "True"},
        {"messages": [USER, GOOD], "label": 1},
        {"conversations": [HUMAN, GPT], "kto_tag": "true"},
    ],
)
def test_rated_answers_in_the_ways_data_sets_write_them(read: Any, row: dict[str, object]) -> None:
    label = "kto_tag" if "kto_tag" in row else "label"
    [good, bad], ledger = read(row, row | {label: False})
    assert isinstance(good, RatedAnswer)
    assert said(good.prompt) == said(bad.prompt) == [("user", "hi")]
    assert said(good.completion) == [("assistant", "ho")]
    assert (good.desirable, bad.desirable) == (True, False)
    assert ledger.sources["train"]["format"] == "kto"


PAIR: dict[str, object] = {"prompt": "hi", "chosen": "ho", "rejected": "no"}
RATED: dict[str, object] = {"prompt": "hi", "completion": "ho", "label": True}


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (PAIR | {"rejected": ""}, "empty_answer", "rejected: the answer is empty"),
        (PAIR | {"chosen": None}, "null", "'chosen' is null"),
        (PAIR | {"chosen": 3}, "wrong_type", "'chosen' is a number, neither text nor a list of turns"),
        (PAIR | {"chosen": []}, "null", "'chosen' is an empty list"),
        (PAIR | {"rejected": "ho"}, "all_masked", "'chosen' and 'rejected' are the same"),
        (PAIR | {"prompt": " "}, "null", "turn 1 (user) is empty"),
        (PAIR | {"chosen": "\ud800"}, "encoding", "half a surrogate"),
        ({"chosen": "a", "rejected": "b"}, "missing_column", "no column 'prompt'"),
        ({"chosen": [USER, GOOD], "rejected": [BAD]}, "wrong_type", "do not begin with the same turns"),
        (PAIR | {"chosen": [USER, GOOD], "rejected": [USER, BAD], "prompt": "x"}, "wrong_type", "'prompt' is none of"),
        ({"chosen": [USER, GOOD], "rejected": [USER, USER]}, "wrong_type", "'rejected' begins with a turn of user"),
        (RATED | {"label": None}, "null", "'label' is null"),
        (RATED | {"label": "good"}, "wrong_type", "'label' is text, neither true nor false"),
        (RATED | {"completion": " "}, "empty_answer", "completion: the answer is empty"),
        ({"messages": [GOOD], "label": True}, "wrong_type", "no user turn"),
        ({"prompt": "hi", "label": True}, "missing_column", "no column 'completion'"),
        ({"prompt": "hi", "completion": "ho"}, "missing_column", "no column 'label'"),
    ],
)
def test_rejections(read: Any, row: dict[str, object], reason: str, detail: str) -> None:
    kind = DataFormat.preference if "chosen" in row else DataFormat.kto
    usable: list[dict[str, object]] = [PAIR | {"prompt": "a"}, RATED | {"prompt": "a"}]
    items, ledger = read(usable[kind is DataFormat.kto], row, format=kind)
    assert (ledger.rows_in, ledger.rows_used, len(items)) == (2, 1, 1)
    assert ledger.rejected[reason] == 1
    assert ledger.examples[reason][0]["source"] == "f.jsonl:2"
    assert detail in ledger.examples[reason][0]["detail"]


def test_repetitions_ids_and_drawing(read: Any) -> None:
    rows = [PAIR | {"prompt": f"p{number}", "id": "same"} for number in range(10)]
    items, ledger = read(*rows, rows[0] | {"id": "other"}, max_rows=6)
    assert len({item.item_id for item in items}) == 6
    assert (ledger.rows_in, ledger.rows_used, ledger.rows_not_drawn) == (7, 6, 4)
    assert ledger.examples["exact_duplicate"] == [{"source": "f.jsonl:11", "detail": "the same as f.jsonl:1"}]
    assert ledger.splits["train"] == 6


def test_an_answer_rated_both_ways_is_no_repetition(read: Any) -> None:
    items, _ = read(RATED, RATED | {"label": False})
    assert len(items) == 2


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"question": "q", "answer": "a"},
            {},
            r"f.jsonl: no preference data \(format question_answer, col",
        ),
        ({"a": 1}, {}, "format unknown, columns a"),
        (PAIR, {"prompt": "{prompt}", "completion": "{chosen}"}, "data.prompt has no effect on format preference"),
        (PAIR, {"group": "Prompts"}, r"no column 'Prompts'. Did you mean 'prompt'\?"),
        (
            PAIR | {"chosen": ""},
            {},
            r"f.jsonl: all 1 rows have an empty answer \(first: f.jsonl:1: .*Mend the rows, or name the format",
        ),
    ],
)
def test_files_that_cannot_be_used(read: Any, row: dict[str, object], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(row, **options)


def test_repetitions_do_not_count_as_usable_rows(read: Any) -> None:
    bad = [PAIR | {"chosen": ""}, PAIR | {"chosen": None}]
    with pytest.raises(DataError, match=r"2 of 3 rows \(66.7 %\) are unusable, more than data.max_rejected_share=0.5"):
        read(*[PAIR] * 20, *bad)
    items, _ = read(*[PAIR] * 20, *bad, max_rejected_share=0.7)
    assert len(items) == 1
