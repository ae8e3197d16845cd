"""Rows that are whole chats, with tools: what they become, and why they are rejected."""

import json

import pytest

from finetune.config import DataConfig, DataFormat, LossOn
from finetune.data.check import REASONS
from finetune.data.formats import detect_format, to_conversation
from finetune.data.readers.raw import RawRow
from finetune.records import Conversation, Rejection

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
CALL = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
WRITTEN_CALL = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]


def convert(values: dict[str, object], loss_on: LossOn = LossOn.all_turns) -> Conversation | Rejection:
    format = detect_format(values)
    assert format is not None
    return to_conversation(RawRow(values, "f.jsonl:1"), DataConfig(path="f.jsonl", loss_on=loss_on), format)


def read(values: dict[str, object], loss_on: LossOn = LossOn.all_turns) -> Conversation:
    result = convert(values, loss_on)
    assert isinstance(result, Conversation), result
    return result


def turns_of(values: dict[str, object]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in read(values).messages]


def test_messages_with_system_tools_and_results() -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "1+1?"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": {"sum": 2}},
        {"role": "assistant", "content": "2"},
    ]
    result = read({"messages": turns, "tools": [{"name": "add"}]})
    assert [message.role for message in result.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert [message.content for message in result.messages] == ["Be brief.", "1+1?", "", '{"sum": 2}', "2"]
    assert json.loads(result.messages[2].tool_calls or "") == [{"id": "1"} | WRITTEN_CALL[0]]
    assert json.loads(result.tools or "") == [{"name": "add"}]
    assert (result.answer, len(result.prompt)) == ("2", 4)


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"name": "add", "arguments": {"a": 1}},
        {"name": "add", "parameters": {"a": 1}},
        json.dumps([CALL]),
        {"function": {"name": "add", "arguments": "{'a': 1}"}, "type": None},
    ],
)
def test_calls_in_the_ways_data_sets_write_them(call: object) -> None:
    calls = call if isinstance(call, str) else [call]
    turns = [CHAT[0], {"role": "assistant", "tool_calls": calls}, {"role": "ipython", "content": ""}, CHAT[1]]
    result = read({"messages": turns})
    (written,) = json.loads(result.messages[1].tool_calls or "")
    assert written.pop("id", "1") == "1"
    assert [written] == WRITTEN_CALL
    assert [message.role for message in result.messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize("arguments", [None, "", {}, " {} "])
def test_calls_without_arguments(arguments: object) -> None:
    turns = [CHAT[0], {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": arguments}}]
    assert json.loads(read({"messages": turns}).messages[1].tool_calls or "")[0]["function"]["arguments"] == {}


def test_tools_lose_the_nulls_of_parquet() -> None:
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"a": {"type": "x"}, "b": None}}},
    }
    written = json.loads(read({"messages": CHAT, "tools": [tool]}).tools or "")
    assert written[0]["function"]["parameters"]["properties"] == {"a": {"type": "x"}}
    assert read({"messages": CHAT, "tools": json.dumps([json.dumps(tool)])}).tools == json.dumps(written)
    for nothing in (None, "", "[]", [], {}, " "):
        assert read({"messages": CHAT, "tools": nothing}).tools is None


@pytest.mark.parametrize("prompt", [CHAT[:1], "hi", json.dumps(CHAT[:1])])
@pytest.mark.parametrize("completion", [CHAT[1:], [{"from": "gpt", "value": "ho"}], "ho", CHAT[1]])
def test_prompt_and_completion_are_one_chat_where_either_is_a_list(prompt: object, completion: object) -> None:
    values = {"prompt": prompt, "completion": completion}
    format = DataFormat.prompt_completion if (prompt, completion) == ("hi", "ho") else DataFormat.messages
    if not isinstance(completion, dict):
        assert detect_format(values) is format
    result = to_conversation(RawRow(values, "f.jsonl:1"), DataConfig(path="f.jsonl"), format)
    assert isinstance(result, Conversation), result
    assert [(turn.role, turn.content) for turn in result.messages] == [("user", "hi"), ("assistant", "ho")]


def test_sharegpt_with_calls_system_and_tools_as_text() -> None:
    turns = [
        {"from": "user", "value": "weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bonn"}}'},
        {"from": "observation", "value": "rain"},
        {"from": "assistant", "value": "Rain."},
    ]
    result = read({"conversations": turns, "system": "S", "tools": '[{"name": "weather"}]'})
    assert [message.role for message in result.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert json.loads(result.messages[2].tool_calls or "")[0]["function"]["name"] == "weather"
    assert json.loads(result.tools or "") == [{"name": "weather"}]


def test_multi_turn_chats_written_into_a_cell() -> None:
    turns = [*CHAT, {"role": "user", "content": "it's?"}, {"role": "assistant", "content": 'a "b"\n'}]
    expected = [(turn["role"], turn["content"]) for turn in turns]
    assert turns_of({"messages": turns}) == expected
    assert turns_of({"messages": json.dumps(turns)}) == expected
    assert turns_of({"messages": str(turns)}) == expected


def test_empty_cells_give_way_to_filled_ones() -> None:
    """The rows of a table have the columns of all rows, and the turns in Parquet have the keys of all turns."""
    nulls: dict[str, object] = {"from": None, "value": None, "tool_calls": None}
    sides: dict[str, object] = {
        "prompt": [CHAT[0] | nulls],
        "completion": [CHAT[1] | nulls],
        "chosen": None,
        "label": None,
    }
    expected = [("user", "hi"), ("assistant", "ho")]
    empties: list[dict[str, object]] = [
        {"messages": None},
        {"conversations": []},
        {"messages": "", "conversations": " "},
    ]
    for empty in empties:
        assert turns_of(sides | empty) == expected
    assert turns_of({"messages": None, "conversations": [CHAT[0] | nulls, CHAT[1]], "tools": None}) == expected


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"text": "c"}]
    assert turns_of({"messages": [{"role": "user", "content": parts}, CHAT[1]]})[0] == ("user", "a\nb\nc")


def test_system_column_goes_before_messages_without_one() -> None:
    assert turns_of({"messages": CHAT, "system": "S"})[0] == ("system", "S")
    own = [{"role": "system", "content": "own"}, *CHAT]
    assert turns_of({"messages": own, "system": "S"})[0] == ("system", "own")


def test_turns_marked_as_not_to_be_learnt_are_never_learnt() -> None:
    first = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT]
    last = [*CHAT, CHAT[0], {**CHAT[1], "train": False}]
    for turns in (first, last):
        result = convert({"messages": turns})
        assert isinstance(result, Rejection)
        assert "data.loss_on=last_turn" in result.detail
    assert isinstance(convert({"messages": first}, LossOn.last_turn), Conversation)
    assert isinstance(convert({"messages": last}, LossOn.last_turn), Rejection)
    kept = [{**CHAT[0], "train": False}, {**CHAT[1], "weight": 1, "train": True}]
    assert isinstance(convert({"messages": kept}), Conversation)


@pytest.mark.parametrize(
    ("values", "reason", "detail"),
    [
        ({"messages": CHAT[:1]}, "wrong_type", "no assistant turn"),
        ({"messages": [*CHAT, CHAT[0]]}, "wrong_type", "the last turn is user, not assistant"),
        ({"messages": CHAT[1:]}, "wrong_type", "no user turn"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": ""}]}, "empty_answer", "the answer is empty"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": " "}, *CHAT]}, "empty_answer", "turn 2 is empty"),
        ({"messages": [{"role": "user", "content": None}]}, "null", "turn 1 of 'messages' has no 'content'"),
        ({"messages": [{"role": "user", "content": 3}]}, "wrong_type", "turn 1 of 'messages' has a number"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "wrong_type", "unknown role 'narrator'"),
        ({"messages": [{"role": 1, "content": "x"}]}, "wrong_type", "unknown role 1"),
        ({"messages": [*CHAT, None]}, "wrong_type", "turn 3 of 'messages' is no object"),
        ({"messages": [*CHAT, {"role": "system", "content": "late"}, *CHAT]}, "wrong_type", "after other turns"),
        ({"messages": [{**CHAT[0], "tool_calls": [CALL]}, CHAT[1]]}, "wrong_type", "only an assistant does"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "wrong_type", "a part of type 'image'"),
        ({"messages": CHAT, "tools": "nonsense"}, "wrong_type", "'tools' is no list of tools"),
        ({"messages": CHAT, "tools": [{"description": "x"}]}, "wrong_type", "tool 1 of 'tools' has no name"),
        ({"messages": CHAT, "tools": [{"function": "x"}]}, "wrong_type", "tool 1 of 'tools' has no name"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "wrong_type", "makes a call that is no"),
        ({"conversations": [{"from": "tool_call", "value": None}]}, "null", "turn 1 of 'conversations' has no 'value'"),
        (
            {"messages": [CHAT[0], {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
            "wrong_type",
            "turn 2 of 'messages' calls 'f' with arguments that are no JSON object",
        ),
    ],
)
def test_rejections(values: dict[str, object], reason: str, detail: str) -> None:
    result = convert(values)
    assert isinstance(result, Rejection), result
    assert result.reason in REASONS
    assert result.reason == reason
    assert detail in result.detail


@pytest.mark.parametrize(("value", "detail"), [([], "is an empty list"), (None, "is null"), ("x", "is text, not a li")])
def test_cells_without_turns(value: object, detail: str) -> None:
    row = RawRow({"messages": value}, "f.jsonl:1")
    result = to_conversation(row, DataConfig(path="f.jsonl"), DataFormat.messages)
    assert isinstance(result, Rejection)
    assert detail in result.detail
