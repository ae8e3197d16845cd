"""SQuAD and its like: flat rows, rows in cells of a table, nested articles, and questions without an answer."""

import json
from collections.abc import Callable, Mapping

import pytest

from finetune.config import DataConfig, DataFormat
from finetune.data.convert.squad import NO_ANSWER, expand
from finetune.data.formats import to_conversation
from finetune.data.read import read_splits
from finetune.data.readers.raw import RawRow
from finetune.records import Conversation, Rejection

ROW = {"context": "New York law governs.", "question": "Which law?"}


def convert(values: Mapping[str, object]) -> Conversation | Rejection:
    return to_conversation(RawRow(dict(values), "f.json:[0]"), DataConfig(path="f.json"), DataFormat.squad)


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["New York", "New York law"], "answer_start": [0, 0]},
        {"text": "New York"},
        [{"text": "New York", "answer_start": 0}],
        [{"text": " "}, {"text": "New York"}],
        ["New York", "NY"],
        "New York",
        '{"text": ["New York"], "answer_start": [0]}',
        "{'text': array(['New York'], dtype=object), 'answer_start': array([0], dtype=int32)}",
    ],
)
def test_the_first_answer_is_learnt(answers: object) -> None:
    result = convert(ROW | {"answers": answers, "is_impossible": False})
    assert isinstance(result, Conversation), result
    assert [message.content for message in result.messages] == ["New York law governs.\n\nWhich law?", "New York"]


@pytest.mark.parametrize(
    "cells",
    [
        {"answers": [], "is_impossible": True},
        {"answers": None, "is_impossible": True},
        {"answers": "", "is_impossible": "True"},
        {"answers": {"text": [], "answer_start": []}},
        {"answers": {"text": [], "answer_start": []}, "is_impossible": None},
    ],
)
def test_questions_that_the_context_does_not_answer(cells: dict[str, object]) -> None:
    result = convert(ROW | cells)
    assert isinstance(result, Conversation), result
    assert result.answer == NO_ANSWER


@pytest.mark.parametrize(
    ("cells", "reason", "detail"),
    [
        ({"answers": []}, "empty_answer", "'answers' gives no answer, and is_impossible is not true"),
        ({"answers": {"text": [" "]}}, "empty_answer", "gives no answer"),
        ({"answers": None}, "null", "'answers' is null"),
        ({"answers": {"text": None}}, "null", "'answers' is null"),
        ({"answers": {"start": 1}}, "wrong_type", "an object without 'text'"),
        ({"answers": [None]}, "wrong_type", "answer 1 of 'answers' is null, not text"),
        ({"answers": 3}, "wrong_type", "'answers' is a number"),
        ({"answers": ["a"], "is_impossible": True}, "wrong_type", "gives the answer 'a'"),
        ({"answers": ["a"], "is_impossible": "perhaps"}, "wrong_type", "neither true nor false"),
        ({"answers": ["a"], "context": None}, "null", "'context' is empty"),
        ({"answers": ["a"], "context": {"a": 1}}, "wrong_type", "'context' is an object"),
        ({"answers": ["a"], "question": " "}, "null", "the question is empty"),
        ({}, "missing_column", "no column 'answers'"),
    ],
)
def test_rejections(cells: dict[str, object], reason: str, detail: str) -> None:
    result = convert(ROW | cells)
    assert isinstance(result, Rejection), result
    assert result.reason == reason
    assert detail in result.detail


def test_templates_replace_prompt_and_answer() -> None:
    row = RawRow({**ROW, "answers": ["New York"], "law": "NY"}, "f.json:[0]")
    data = DataConfig(path="f.json", prompt="{question} Read: {context}", completion="{law}.")
    result = to_conversation(row, data, DataFormat.squad)
    assert isinstance(result, Conversation)
    assert [turn.content for turn in result.messages] == ["Which law? Read: New York law governs.", "NY."]


def test_expand_gives_every_question_a_row_and_loses_nothing() -> None:
    questions: list[object] = [{"id": "q1", "question": "a?", "answers": []}, {"id": "q2"}, None]
    article: dict[str, object] = {
        "title": "T",
        "paragraphs": [{"context": "C", "qas": questions}, {"context": "D", "qas": []}, "junk"],
    }
    rows = list(expand(RawRow(article, "train.json:[4]")))
    assert [row.source.removeprefix("train.json:[4]") for row in rows] == [
        ".paragraphs[0].qas[0]",
        ".paragraphs[0].qas[1]",
        ".paragraphs[0].qas[2]",
        ".paragraphs[1]",
        ".paragraphs[2]",
    ]
    assert rows[0].values == {"title": "T", "context": "C", "id": "q1", "question": "a?", "answers": []}
    for row in rows:
        assert isinstance(to_conversation(row, DataConfig(path="f"), DataFormat.squad), Rejection)


@pytest.mark.parametrize("paragraphs", [[], None, "text", [1, 2]])
def test_expand_leaves_other_rows_alone(paragraphs: object) -> None:
    row = RawRow({"text": "t", "paragraphs": paragraphs}, "f.json:[0]")
    assert list(expand(row)) == [row]


def test_a_file_as_squad_2_nests_it(write: Callable[..., str]) -> None:
    def article(number: int) -> dict[str, object]:
        qas = [
            {"id": f"{number}-a", "question": f"Who signed {number}?", "answers": [{"text": f"Party {number}"}]},
            {"id": f"{number}-b", "question": f"Who fled {number}?", "answers": [], "is_impossible": True},
            {"id": f"{number}-c", "question": f"Who {number}?", "answers": []},
        ]
        context = f"Party {number} signed contract {number * 7919} with clauses that no other contract has."
        return {"title": f"Contract {number}", "paragraphs": [{"context": context, "qas": qas}]}

    content = json.dumps({"version": "v2.0", "data": [article(number) for number in range(12)]})
    splits, ledger = read_splits(DataConfig(path=write("train.json", content), group="title"), seed=0)
    assert ledger.sources["train"]["format"] == "squad"
    assert ledger.rows_in == 36
    assert ledger.rejected["empty_answer"] == 12
    assert ledger.examples["empty_answer"][0]["source"] == "train.json:[0].paragraphs[0].qas[2]"
    groups = [{row.group for row in part} for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, groups)) == len(set.union(*groups))
