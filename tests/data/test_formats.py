"""Formats one by one: what is detected, what a row becomes, and why rows are rejected."""

import json

import pytest

from finetune.config import DataConfig, DataFormat
from finetune.data.check import REASONS
from finetune.data.formats import CONVERTERS, detect_format, to_conversation
from finetune.data.raw import RawRow
from finetune.errors import DataError
from finetune.records import Conversation, Rejection

QA = {"question": "Q?", "answer": "A"}
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
SHARED = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]


def convert(values: dict[str, object], format: DataFormat | None = None, **options: object) -> Conversation | Rejection:
    format = format or detect_format(values)
    assert format is not None
    config = DataConfig(path="f.jsonl", **options)  # type: ignore[arg-type]
    return to_conversation(RawRow(values, "f.jsonl:1"), config, format)


def chat_of(values: dict[str, object], format: DataFormat | None = None, **options: object) -> list[tuple[str, str]]:
    result = convert(values, format, **options)
    assert isinstance(result, Conversation), result
    return [(message.role, message.content) for message in result.messages]


def problem_of(values: dict[str, object], format: DataFormat | None = None, **options: object) -> tuple[str, str]:
    result = convert(values, format, **options)
    assert isinstance(result, Rejection), result
    assert result.reason in REASONS
    return result.reason, result.detail


def test_every_format_has_a_converter() -> None:
    assert set(CONVERTERS) == set(DataFormat) - {DataFormat.auto}


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
        (QA | {"options": ["A", "B"]}, DataFormat.choices),
        ({"question": "Q?", "choices": ["A", "B"], "answerKey": "A"}, DataFormat.choices),
        ({"text": "t", "title": "x"}, DataFormat.text),
        ({"QUESTION": "Q?", "final_decision": "yes", "LONG_ANSWER": "long"}, None),
        ({"a": 1}, None),
    ],
)
def test_detection(values: dict[str, object], expected: DataFormat | None) -> None:
    assert detect_format(values) is expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "p", "chosen": "c", "rejected": "r"}, "chosen and rejected.*data.completion='{chosen}'"),
        ({"messages": CHAT, "label": True}, "column messages with a boolean label, as for KTO"),
        ({"prompt": "p", "completion": "c", "label": False}, "for other trainers"),
    ],
)
def test_preference_data_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        detect_format(values)


def test_messages_with_system_tools_and_results() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "1+1?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": {"sum": 2}},
        {"role": "assistant", "content": "2"},
    ]
    result = convert({"messages": turns, "tools": [{"name": "add"}]})
    assert isinstance(result, Conversation)
    assert [message.role for message in result.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [message.content for message in result.messages] == ["Be brief.", "1+1?", "", '{"sum": 2}', "2"]
    assert json.loads(result.messages[2].tool_calls or "") == [
        {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    ]
    assert json.loads(result.tools or "") == [{"name": "add"}]
    assert (result.answer, len(result.prompt)) == ("2", 4)


def test_prompt_and_completion_lists_are_one_chat() -> None:
    assert chat_of({"prompt": CHAT[:1], "completion": CHAT[1:]}) == [("user", "hi"), ("assistant", "ho")]


def test_sharegpt_with_calls_system_and_tools_as_text() -> None:
    turns = [
        {"from": "user", "value": "weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
        {"from": "observation", "value": "rain"},
        {"from": "assistant", "value": "Rain."},
    ]
    result = convert({"conversations": turns, "system": "S", "tools": '[{"name": "weather"}]'})
    assert isinstance(result, Conversation)
    assert [message.role for message in result.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert json.loads(result.messages[2].tool_calls or "")[0]["function"]["name"] == "weather"
    assert json.loads(result.tools or "") == [{"name": "weather"}]


@pytest.mark.parametrize("absent", [{}, {"input": ""}, {"input": None}])
def test_alpaca_without_input(absent: dict[str, object]) -> None:
    assert chat_of({"instruction": "Do.", "output": "Done."} | absent) == [("user", "Do."), ("assistant", "Done.")]


def test_alpaca_puts_input_behind_instruction() -> None:
    chat = chat_of({"instruction": "Do.", "input": "this", "response": "Done.", "system": "S"})
    assert chat == [("system", "S"), ("user", "Do.\n\nthis"), ("assistant", "Done.")]


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
        ({"question": "Q", "answer": ["a"]}, "wrong_type", "'answer' is a list"),
        ({"question": {"a": 1}, "answer": "A"}, "wrong_type", "'question' is an object"),
        ({"question": "Q \ud800", "answer": "A"}, "encoding", "half a surrogate pair (\\ud800)"),
        ({"instruction": "", "input": "", "output": "o"}, "null", "turn 1 (user) is empty"),
        ({"text": "  "}, "empty_answer", "the text is empty"),
        ({"text": 3}, "wrong_type", "'text' is a number"),
        ({"text": None}, "null", "'text' is null"),
        ({"messages": CHAT[:1]}, "wrong_type", "no assistant turn"),
        ({"messages": [*CHAT, CHAT[0]]}, "wrong_type", "the last turn is user, not assistant"),
        ({"messages": CHAT[1:]}, "wrong_type", "no user turn"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": ""}]}, "empty_answer", "the answer is empty"),
        ({"messages": [{"role": "user", "content": None}]}, "null", "turn 1 of 'messages' has no 'content'"),
        ({"messages": [{"role": "user", "content": 3}]}, "wrong_type", "turn 1 of 'messages' has a number"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "wrong_type", "unknown role 'narrator'"),
        ({"messages": [{"role": 1, "content": "x"}]}, "wrong_type", "unknown role 1"),
        ({"messages": [*CHAT, {"role": "system", "content": "late"}, *CHAT]}, "wrong_type", "after other turns"),
        ({"messages": CHAT, "tools": "nonsense"}, "wrong_type", "'tools' is no list of tools"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "wrong_type", "makes a call that is no"),
        ({"question": "Q", "options": ["a"], "answer": "a"}, "wrong_type", "gives 1 options"),
        ({"question": "Q", "options": ["a", "b"], "answer": "z"}, "wrong_type", "'z' is none of the 2 options"),
        ({"question": "Q", "options": ["a", "b"], "answer": 2}, "wrong_type", "2 is no index of the 2 options"),
        ({"question": "Q", "options": ["a", "b"], "answer": ""}, "empty_answer", "the answer is empty"),
        ({"question": "Q", "options": None, "answer": "a"}, "null", "'options' is null"),
        ({"question": "Q", "options": {"x y": 1}, "answer": "a"}, "wrong_type", "with the keys x y, not options"),
    ],
)
def test_rejections(values: dict[str, object], reason: str, detail: str) -> None:
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
def test_ids_and_groups(values: dict[str, object], item_id: str, group: str | None) -> None:
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
