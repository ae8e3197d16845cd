"""Formats one by one: what is detected, what a row becomes, and why rows are rejected. Chats: test_chats.py."""

import json
import re
from collections.abc import Callable, Mapping

import pytest

from finetune.config import DataConfig, DataFormat
from finetune.data.check import REASONS
from finetune.data.formats import CONVERTERS, detect_format, to_conversation
from finetune.data.readers.raw import RawRow
from finetune.errors import DataError
from finetune.records import Conversation, Rejection

QA = {"question": "Q?", "answer": "A"}
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
SHARED = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]


def convert(
    values: Mapping[str, object], format: DataFormat | None = None, **options: object
) -> Conversation | Rejection:
    format = format or detect_format(values)
    assert format is not None
    config = DataConfig(path="f.jsonl", **options)  # type: ignore[arg-type]
    return to_conversation(RawRow(dict(values), "f.jsonl:1"), config, format)


def chat_of(values: Mapping[str, object], format: DataFormat | None = None, **options: object) -> list[tuple[str, str]]:
    result = convert(values, format, **options)
    assert isinstance(result, Conversation), result
    return [(message.role, message.content) for message in result.messages]


def problem_of(values: Mapping[str, object], format: DataFormat | None = None, **options: object) -> tuple[str, str]:
    result = convert(values, format, **options)
    assert isinstance(result, Rejection), result
    assert result.reason in REASONS
    return result.reason, result.detail


def test_every_format_has_a_converter() -> None:
    assert set(CONVERTERS) == set(DataFormat) - {DataFormat.auto, DataFormat.preference, DataFormat.kto}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"messages": CHAT}, DataFormat.messages),
        ({"conversations": CHAT}, DataFormat.messages),
        ({"prompt": CHAT[:1], "completion": CHAT[1:]}, DataFormat.messages),
        ({"messages": json.dumps(CHAT)}, DataFormat.messages),
        ({"conversations": SHARED, "tools": "[]"}, DataFormat.sharegpt),
        ({"instruction": "i", "output": "o"}, DataFormat.alpaca),
        ({"instruction": "i", "input": "", "response": "o"}, DataFormat.alpaca),
        ({"prompt": "p", "completion": "c"}, DataFormat.prompt_completion),
        (QA, DataFormat.question_answer),
        ({"QUESTION": "Q?", "Answer": "A"}, DataFormat.question_answer),
        (QA | {"context": "C"}, DataFormat.question_answer),
        ({"question": "Q?", "answer": ["A", "a"]}, DataFormat.question_answer),
        (
            {"chosen": "\n\nHuman: Q?\n\nAssistant: A", "rejected": "\n\nHuman: Q?\n\nAssistant: B"},
            DataFormat.preference,
        ),
        ({"question": "Q?", "response": "A", "system_prompt": "S"}, DataFormat.question_answer),
        (QA | {"context": "C", "answers": {"text": ["A"], "answer_start": [0]}}, DataFormat.question_answer),
        ({"context": "C", "question": "Q?", "answers": {"text": ["A"], "answer_start": [0]}}, DataFormat.squad),
        ({"Context": "C", "Question": "Q?", "Answers": [{"text": "A", "answer_start": 0}]}, DataFormat.squad),
        ({"context": "C", "question": "Q?", "answers": [], "is_impossible": True}, DataFormat.squad),
        ({"context": "C", "question": "Q?", "answers": '{"text": ["A"], "answer_start": [0]}'}, DataFormat.squad),
        ({"context": "C", "question": "Q?", "answers": "{'text': array(['A'], dtype=object)}"}, DataFormat.squad),
        ({"question": "Q?", "answers": ["A", "a"]}, None),
        ({"context": "C", "question": "Q?", "answers": 3}, None),
        (QA | {"A": "x", "B": "y", "C": "z"}, DataFormat.choices),
        (QA | {"A": "x"}, DataFormat.question_answer),
        (QA | {"options": ["A", "B"]}, DataFormat.choices),
        (QA | {"options": None}, DataFormat.question_answer),
        (QA | {"options": " ", "choices": []}, DataFormat.question_answer),
        ({"question": "Q?", "answer": "", "text": ""}, DataFormat.question_answer),
        ({"options": ["A", "B"], "question": None, "answer": "A"}, DataFormat.choices),
        ({"messages": None, "text": "t"}, DataFormat.text),
        ({"messages": None, "conversations": SHARED}, DataFormat.sharegpt),
        ({"prompt": CHAT[:1], "completion": "ho"}, DataFormat.messages),
        ({"prompt": "hi", "completion": CHAT[1:]}, DataFormat.messages),
        ({"messages": str(CHAT)}, DataFormat.messages),
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, DataFormat.preference),
        ({"prompt": "p", "chosen": "c", "rejected": None}, DataFormat.preference),
        ({"messages": CHAT, "label": True}, DataFormat.kto),
        ({"conversations": SHARED, "kto_tag": "False"}, DataFormat.kto),
        ({"prompt": "p", "completion": "c", "label": 0}, DataFormat.kto),
        ({"prompt": "p", "completion": "c", "label": "spam"}, DataFormat.prompt_completion),
        ({"prompt": "p", "completion": "c", "label": 3}, DataFormat.prompt_completion),
        (QA | {"label": True}, DataFormat.question_answer),
        ({"question": "Q?", "choices": ["A", "B"], "answerKey": "A"}, DataFormat.choices),
        ({"text": "t", "title": "x"}, DataFormat.text),
        ({"QUESTION": "Q?", "final_decision": "yes", "LONG_ANSWER": "long"}, None),
        ({"a": 1}, None),
    ],
)
def test_detection(values: Mapping[str, object], expected: DataFormat | None) -> None:
    assert detect_format(values) is expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "data.prompt='{prompt}' data.completion='{chosen}'"),
        (
            {"instruction": "i", "input": "x", "Chosen": "c", "rejected": "r"},
            r"data.prompt='{instruction}\n\n{input}' data.completion='{Chosen}'",
        ),
        ({"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]}, 'write each row as {"messages": ['),
        ({"messages": CHAT, "chosen": CHAT, "rejected": CHAT}, "To learn the chats in messages instead: data.format=m"),
        ({"messages": CHAT, "label": True}, "column label, as for KTO"),
        ({"prompt": "p", "completion": "c", "label": False}, "Keep the rows whose label is true"),
    ],
)
def test_a_supervised_run_refuses_preferences(values: Mapping[str, object], message: str) -> None:
    with pytest.raises(DataError) as error:
        convert(values)
    assert str(error.value).startswith("f.jsonl:1: preference data (")
    assert message in str(error.value)


def test_the_overrides_in_the_refusal_work() -> None:
    row: dict[str, object] = {"instruction": "i", "input": "x", "chosen": "c", "rejected": "r"}
    with pytest.raises(DataError) as error:
        convert(row)
    prompt, completion = re.findall(r"data\.\w+='([^']+)'", str(error.value))
    chat = chat_of(row, DataFormat.prompt_completion, prompt=prompt, completion=completion)
    assert chat == [("user", "i\n\nx"), ("assistant", "c")]


@pytest.mark.parametrize("absent", [{}, {"input": ""}, {"input": None}])
def test_alpaca_without_input(absent: dict[str, object]) -> None:
    assert chat_of({"instruction": "Do.", "output": "Done."} | absent) == [("user", "Do."), ("assistant", "Done.")]


def test_alpaca_puts_input_behind_instruction() -> None:
    chat = chat_of({"instruction": "Do.", "input": "this", "response": "Done.", "system": "S"})
    assert chat == [("system", "S"), ("user", "Do.\n\nthis"), ("assistant", "Done.")]


def test_alpaca_history_comes_first() -> None:
    row = {"instruction": "Do.", "output": "Done.", "system": "S", "history": [["a", "b"], ["c", "d"]]}
    expected = [("system", "S"), *zip(("user", "assistant") * 3, ("a", "b", "c", "d", "Do.", "Done."), strict=True)]
    assert chat_of(row) == expected
    assert chat_of(row | {"history": '[["a", "b"], ["c", "d"]]'}) == expected
    assert len(chat_of(row | {"history": []})) == len(chat_of(row | {"history": ""})) == 3


def test_an_empty_column_gives_way_to_a_filled_one() -> None:
    row = {"instruction": "i", "output": "", "response": "r"}
    assert chat_of(row) == [("user", "i"), ("assistant", "r")]
    assert problem_of(row | {"response": None}) == ("empty_answer", "the answer is empty")


def test_system_columns_of_single_turns() -> None:
    for row in ({"question": "q", "response": "a"}, {"prompt": "q", "completion": "a"}):
        assert chat_of(row | {"system_prompt": "S"}) == [("system", "S"), ("user", "q"), ("assistant", "a")]
        assert chat_of(row | {"system": " "}) == [("user", "q"), ("assistant", "a")]


def test_question_answer_puts_context_first_and_lists_on_lines() -> None:
    assert chat_of({"CONTEXTS": ["a", "b"], "QUESTION": "Q?", "ANSWER": 7}) == [
        ("user", "a\nb\n\nQ?"),
        ("assistant", "7"),
    ]


def test_question_answer_with_templates() -> None:
    row: dict[str, object] = {"question": "Q?", "long": "L", "answer": "A"}
    format = DataFormat.question_answer
    assert chat_of(row, format, prompt="Say: {question}") == [("user", "Say: Q?"), ("assistant", "A")]
    assert chat_of(row, format, completion="{long}!") == [("user", "Q?"), ("assistant", "L!")]


def test_system_option_goes_before_chats_without_one() -> None:
    assert chat_of(dict(QA), system="S")[0] == ("system", "S")
    own = {"messages": [{"role": "system", "content": "own"}, *CHAT]}
    assert [content for role, content in chat_of(own, system="S") if role == "system"] == ["own"]
    empty = {"messages": [{"role": "system", "content": " "}, *CHAT]}
    assert [content for role, content in chat_of(empty, system="S") if role == "system"] == ["S"]


LAWS = ["New York", "Delaware", "Texas"]


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        (LAWS, "Delaware", "Delaware"),
        (LAWS, "B", "Delaware"),
        (LAWS, "(b)", "Delaware"),
        (LAWS, "B. Delaware", "Delaware"),
        (LAWS, 1, "Delaware"),
        (LAWS, "1", "Delaware"),
        (LAWS, "delaware", "Delaware"),
        ("A. New York\nB. Delaware\nC. Texas", "B. Delaware", "Delaware"),
        ("(A) New York\n(B) Delaware", "B", "Delaware"),
        ("New York\nDelaware", "Delaware", "Delaware"),
        (["A) New York", "B) Delaware"], "B) Delaware", "Delaware"),
        ("1. New York\n2. Delaware", "2", "Delaware"),
        (["C. elegans", "B. subtilis"], "B. subtilis", "B. subtilis"),
        ("['New York', 'Delaware']", "B", "Delaware"),
        ({"label": ["1", "2", "3"], "text": LAWS}, "2", "Delaware"),
        ({"label": ["1", "2", "3"], "text": LAWS}, 2, "Delaware"),
        ({"A": "New York", "B": "Delaware"}, "B", "Delaware"),
        (["A", "B", "C"], "B", "B"),
        ("{'A': 'New York', 'B': 'Delaware'}", "B", "Delaware"),
        ({"label": ["A", "B "], "text": ["New York", "Delaware"]}, "B", "Delaware"),
        (["4", "1", "2", "0"], 0, "4"),
        (["4", "1", "2", "0"], "0", "0"),
        ([4, 1, 2, 0], 0, "0"),
        ([True, False], False, "False"),
    ],
)
def test_choices_in_the_ways_data_sets_write_them(options: object, answer: object, right: str) -> None:
    result = convert({"question": "Q?", "options": options, "answer": answer})
    assert isinstance(result, Conversation), result
    assert result.answer == right
    assert right in result.options
    assert not any(option.startswith("A. ") for option in result.options)


@pytest.mark.parametrize("name", ["{}", "option_{}", "Option {}"])
def test_choices_in_a_column_each(name: str) -> None:
    options = {name.format(letter): text for letter, text in zip("ABC", LAWS, strict=True)}
    row = {"question": "Q?", "answer": "B"} | options
    result = convert(row)
    assert isinstance(result, Conversation), result
    assert (result.answer, list(result.options)) == ("Delaware", LAWS)
    short = convert(row | {name.format("C"): ""})
    assert isinstance(short, Conversation)
    assert list(short.options) == LAWS[:2]
    assert problem_of(row | {name.format("B"): None}, DataFormat.choices)[0] == "wrong_type"


def test_choices_prompt_by_default_and_by_template() -> None:
    row: dict[str, object] = {"context": "C", "question": "Q?", "options": "A. x\nB. y", "answer": "B"}
    assert chat_of(row) == [("user", "C\n\nQ?\nA. x\nB. y"), ("assistant", "y")]
    templated = chat_of(row, DataFormat.choices, prompt=r"{question}\n\n{options}\nAnswer:")
    assert templated[0] == ("user", "Q?\n\nA. x\nB. y\nAnswer:")


@pytest.mark.parametrize(
    ("values", "reason", "detail"),
    [
        ({"question": None, "answer": "A"}, "null", "'question' is null"),
        ({"question": "Q", "answer": None}, "null", "'answer' is null"),
        ({"question": " ", "answer": "A"}, "null", "the question is empty"),
        ({"question": "Q", "answer": " \n"}, "empty_answer", "the answer is empty"),
        ({"question": "Q", "answer": ["a", 1]}, "wrong_type", "'answer' is a list"),
        ({"question": {"a": 1}, "answer": "A"}, "wrong_type", "'question' is an object"),
        ({"question": "Q \ud800", "answer": "A"}, "encoding", "half a surrogate pair (\\ud800)"),
        ({"instruction": "", "input": "", "output": "o"}, "null", "turn 1 (user) is empty"),
        ({"text": "  "}, "empty_answer", "the text is empty"),
        ({"text": 3}, "wrong_type", "'text' is a number"),
        ({"text": None}, "null", "'text' is null"),
        ({"question": "Q", "options": ["a"], "answer": "a"}, "wrong_type", "gives 1 options"),
        ({"question": "Q", "options": ["a", "b"], "answer": "z"}, "wrong_type", "'z' is none of the 2 options"),
        ({"question": "Q", "options": ["a", "b"], "answer": 2}, "wrong_type", "2 is no index of the 2 options"),
        ({"question": "Q", "options": ["a", "b"], "answer": ""}, "empty_answer", "the answer is empty"),
        ({"question": "Q", "options": ["a", "\ud800"], "answer": "a"}, "encoding", "half a surrogate"),
        ({"question": "Q", "answer": "a", "id": "\udfff"}, "encoding", "half a surrogate"),
        ({"question": "Q", "answer": "a", "group": "\udfff"}, "encoding", "half a surrogate"),
        ({"question": "Q", "options": {"\ud800 y": 1}, "answer": "a"}, "wrong_type", "with the keys \\ud800 y, not"),
        ({"question": "Q", "answer": "a", "system": ["S"]}, "wrong_type", "'system' is a list"),
        ({"instruction": "i", "output": "o", "history": "a"}, "wrong_type", "'history' is text, not a list of [prompt"),
        ({"instruction": "i", "output": "o", "history": [["a"]]}, "wrong_type", "entry 1 of 'history'"),
        ({"question": "Q", "options": {"x y": 1}, "answer": "a"}, "wrong_type", "with the keys x y, not options"),
    ],
)
def test_rejections(values: Mapping[str, object], reason: str, detail: str) -> None:
    found = problem_of(values)
    assert found[0] == reason
    assert detail in found[1]


@pytest.mark.parametrize(
    ("format", "column"),
    [
        (DataFormat.messages, "messages"),
        (DataFormat.sharegpt, "conversations"),
        (DataFormat.alpaca, "instruction"),
        (DataFormat.prompt_completion, "prompt"),
        (DataFormat.question_answer, "answer"),
        (DataFormat.choices, "options"),
        (DataFormat.squad, "context"),
        (DataFormat.text, "text"),
    ],
)
def test_rows_without_the_formats_columns(format: DataFormat, column: str) -> None:
    reason, detail = problem_of({"other": "x"}, format)
    assert reason == "missing_column"
    assert repr(column) in detail


@pytest.mark.parametrize(
    ("values", "item_id", "group"),
    [
        (dict(QA), "f.jsonl:1", None),
        (QA | {"id": 7}, "7", None),
        (QA | {"task_id": "MBPP/1", "group": "g"}, "MBPP/1", "g"),
        (QA | {"id": " ", "group": ""}, "f.jsonl:1", None),
    ],
)
def test_ids_and_groups(values: Mapping[str, object], item_id: str, group: str | None) -> None:
    result = convert(values)
    assert isinstance(result, Conversation)
    assert (result.item_id, result.group) == (item_id, group)


def test_group_column_of_the_configuration() -> None:
    result = convert(QA | {"contract": 12, "group": "other"}, group="contract")
    assert isinstance(result, Conversation)
    assert result.group == "12"
    assert problem_of(QA | {"contract": None}, group="contract") == (
        "null",
        "'contract' is empty, but it names the row's group (data.group)",
    )


def test_long_group_cells_get_a_short_distinct_name() -> None:
    first, second = (convert(QA | {"context": "x" * 500 + end}, group="context") for end in "ab")
    assert isinstance(first, Conversation)
    assert isinstance(second, Conversation)
    assert first.group != second.group
    assert len(first.group or "") < 100


def test_rows_nested_beyond_reason_are_rejected() -> None:
    deep: object = "x"
    for _ in range(5000):
        deep = [deep]
    for values in (QA | {"group": deep}, QA | {"context": deep}):
        assert problem_of(values) == ("wrong_type", "a cell is nested too deeply")


def test_a_rejection_keeps_the_row() -> None:
    result = convert({"question": "Q?", "answer": " ", "note": "\ud800"})
    assert isinstance(result, Rejection)
    assert json.loads(result.content)["question"] == "Q?"


def test_of_several_right_answers_the_first_is_learned_and_the_rest_counted(write: Callable[..., str]) -> None:
    """nq_open: a list of answers that are all right."""
    from finetune.data.read import read_splits

    answers: list[object] = [["Paris", "the city of Paris"], ["", "Rome"], ["Oslo"], "Bern", [], ["  "], [3]]
    rows = [{"question": f"Which capital, number {number}?", "answer": answer} for number, answer in enumerate(answers)]
    splits, ledger = read_splits(DataConfig(path=write("nq.jsonl", rows)), seed=0)
    kept = [row for split in (splits.train, splits.validation, splits.test) for row in split]
    assert sorted(row.answer for row in kept) == ["Bern", "Oslo", "Paris", "Rome"]
    assert ledger.sources["train"]["rows_with_alternatives"] == 1
    assert {reason: count for reason, count in ledger.rejected.items() if count} == {"empty_answer": 2, "wrong_type": 1}
    assert "  1 rows give several right answers; the first of each is used" in ledger.lines()
    mapped, ledger = read_splits(
        DataConfig(path=write("nq.jsonl", rows), format=DataFormat.question_answer, completion="{answer}"), seed=0
    )
    assert "Paris\nthe city of Paris" in {row.answer for row in (*mapped.train, *mapped.validation, *mapped.test)}
    assert "rows_with_alternatives" not in ledger.sources["train"]
