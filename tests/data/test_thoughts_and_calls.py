"""Thoughts beside the answer, and ids of tool calls: kept from the row to the text that a template writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import trl

from finetune.config import DataConfig
from finetune.data.encode import Encoded, encode, tokenize_conversation
from finetune.data.formats import detect_format, to_conversation
from finetune.data.leaks import item_text
from finetune.data.readers.raw import RawRow
from finetune.data.rendering.pieces import pieces_of
from finetune.data.rendering.render import RenderProblem, render_chat, template_of
from finetune.data.rows import content_digest
from finetune.records import Conversation, Message, Rejection

from .conversations import TOOLS, tokenizer_for
from .test_trl_templates import without_markers

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
THINKING = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}"
    "{%- if message.reasoning_content and loop.last %}"
    "{{- '<think>\n' + message.reasoning_content.strip() + '\n</think>\n\n' }}{%- endif %}"
    "{{- message.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
"""Of the Qwen3 kind: thoughts of the last answer alone are written."""
STRICT_IDS = (
    "{{- bos_token }}{%- for message in messages %}"
    "{%- if message.role == 'user' %}{{- '[INST] ' + message.content + ' [/INST]' }}"
    "{%- elif message.tool_calls is defined %}{{- '[TOOL_CALLS]' }}{%- for call in message.tool_calls %}"
    "{%- if call.id is not defined or call.id | length != 9 %}"
    "{{ raise_exception('ids have nine characters') }}{% endif %}"
    "{{- call.id + ' ' + call.function | tojson }}{%- endfor %}{{- eos_token }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if message.tool_call_id is not defined or message.tool_call_id | length != 9 %}"
    "{{ raise_exception('results name their call') }}{% endif %}"
    "{{- '[RESULT]' + message.tool_call_id + ' ' + message.name | default('?') + ' ' + message.content }}"
    "{%- else %}{{- ' ' + message.content + eos_token }}{%- endif %}{%- endfor %}"
)
"""Of the Mistral kind: calls and results carry ids of nine characters, or the template refuses."""


def read(turns: list[dict[str, object]], **columns: object) -> Conversation | Rejection:
    values: dict[str, object] = {"messages": turns, **columns}
    format = detect_format(values)
    assert format is not None
    return to_conversation(RawRow(values, "f.jsonl:1"), DataConfig(path="f.jsonl"), format)


def read_chat(turns: list[dict[str, object]], **columns: object) -> Conversation:
    result = read(turns, **columns)
    assert isinstance(result, Conversation), result
    return result


def learned(encoded: Encoded) -> str:
    """The text that carries loss, with a bar between pieces that do not touch."""
    parts: list[str] = []
    last = -1
    for number, ((start, end), is_learned) in enumerate(zip(encoded.offsets, encoded.loss_mask, strict=True)):
        if is_learned:
            parts.append(("" if last in (-1, number - 1) else "|") + encoded.text[start:end])
            last = number
    return "".join(parts)


def thinking_chat(*, thoughts: str = "2 + 2 is 4, so the answer is 4.", key: str = "reasoning_content") -> Conversation:
    return read_chat(
        [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "2", key: "1 + 1 is 2."},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "4", key: thoughts},
        ]
    )


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_thoughts_are_kept_under_each_of_their_names(key: str) -> None:
    chat = thinking_chat(key=key)
    thoughts = [turn.reasoning_content for turn in chat.messages]
    assert thoughts == [None, "1 + 1 is 2.", None, "2 + 2 is 4, so the answer is 4."]


@pytest.mark.parametrize("value", [None, "", "  ", True, float("nan")])
def test_no_thoughts_are_no_thoughts(value: object) -> None:
    turns: list[dict[str, object]] = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert read_chat([turns[0], turns[1] | {"thinking": value}]) == read_chat(turns)


def test_thoughts_that_are_no_text_cost_the_row() -> None:
    result = read([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "thinking": ["x"]}])
    assert isinstance(result, Rejection)
    assert (result.reason, result.detail) == (
        "wrong_type",
        "turn 2 of 'messages' has a list for its 'thinking', not text",
    )


@pytest.mark.parametrize("name", [None, "qwen3", "qwen3_training", "qwen3_6", "qwen3_6_training"])
def test_thoughts_are_written_and_learned(name: str | None) -> None:
    template = THINKING if name is None else (TEMPLATES / f"{name}.jinja").read_text()
    (encoded,) = encode([thinking_chat()], tokenizer_for(template), last_turn_only=True)
    written = learned(encoded)
    opened = written.removeprefix("<think>\n")
    assert opened == "2 + 2 is 4, so the answer is 4.\n</think>\n\n4<|im_end|>"
    example = tokenize_conversation(thinking_chat(), tokenizer_for(template), last_turn_only=True)
    assert example.num_supervised_bytes == len("2 + 2 is 4, so the answer is 4.") + len("4")


def test_the_answer_is_found_behind_thoughts_that_hold_it_too() -> None:
    template = template_of(tokenizer_for(THINKING))
    chat = render_chat(thinking_chat().messages, None, template)
    assert chat.thoughts[:3] == (None, None, None)
    places = chat.thoughts[3], chat.contents[3]
    assert [chat.text[place[0] : place[1]] for place in places if place] == ["2 + 2 is 4, so the answer is 4.", "4"]
    assert places[1] and chat.text[: places[1][0]].endswith("</think>\n\n")
    hidden = Message(role="assistant", content="think", reasoning_content="I think so")
    place = render_chat((thinking_chat().messages[0], hidden), None, template).contents[1]
    assert place and place[0] > len("<think>\nI think so\n</think>")


@pytest.mark.parametrize("name", ["qwen3_training", "qwen3_6_training", "qwen3_5_think_training", "gptoss_training"])
def test_thoughts_are_masked_alike_with_markers_and_without(name: str) -> None:
    source = (TEMPLATES / f"{name}.jinja").read_text()
    marked, stripped = tokenizer_for(source), tokenizer_for(source)
    stripped.chat_template = without_markers(source)
    for thoughts in ("2 + 2 is 4, so the answer is 4.", "4", "  4\n\nassistant ", "user"):
        for turns in (2, 4):
            row = thinking_chat(thoughts=thoughts)
            row = Conversation(item_id="1", source="f:1", messages=row.messages[-turns:])
            left, right = (encode([row], tokenizer)[0] for tokenizer in (marked, stripped))
            assert left.text == right.text
            assert thoughts.strip() in learned(left)
            assert learned(left) == learned(right)


def test_a_template_that_leaves_out_the_last_thoughts_costs_the_row() -> None:
    plain = THINKING.replace("message.reasoning_content and loop.last", "false")
    with pytest.raises(RenderProblem, match="leaves out the thoughts of the answer, reasoning_content"):
        encode([thinking_chat()], tokenizer_for(plain))
    turns = (*thinking_chat().messages[:3], Message(role="assistant", content="4"))
    unthinking = Conversation(item_id="1", source="f:1", messages=turns)
    assert learned(encode([unthinking], tokenizer_for(plain))[0]) == "2<|im_end|>|4<|im_end|>"


def test_thoughts_show_as_the_datas_own_words() -> None:
    tokenizer = tokenizer_for(THINKING)
    row = thinking_chat()
    pieces = pieces_of(tokenize_conversation(row, tokenizer), tokenizer, row)
    said = "".join(piece.text for piece in pieces if piece.kind == "content")
    assert said == "1+1?22+2?2 + 2 is 4, so the answer is 4.4"


def test_thoughts_are_searched_for_leaks_and_tell_rows_apart() -> None:
    row, other = thinking_chat(), thinking_chat(thoughts="I guess.")
    assert "so the answer is 4" in item_text(row)
    assert content_digest(row) != content_digest(other)


def test_personal_data_in_thoughts_is_found() -> None:
    from finetune.data.privacy.fields import fields_of, with_fields

    row = thinking_chat(thoughts="Ask jane.roe@example.org.")
    texts = [field.text.replace("jane.roe@example.org", "[EMAIL_1]") for field in fields_of(row)]
    assert with_fields(row, texts).messages[-1].reasoning_content == "Ask [EMAIL_1]."


def calling_chat(first: object, second: object, *, answered: tuple[object, object]) -> Conversation:
    calls = [
        {"type": "function", "function": {"name": "find_law", "arguments": {"state": "NY"}}},
        {"type": "function", "function": {"name": "count_days", "arguments": {"number": 3}}},
    ]
    for call, identity in zip(calls, (first, second), strict=True):
        if identity is not None:
            call["id"] = identity  # pyright: ignore[reportArgumentType]
    results: list[dict[str, object]] = [
        {"role": "tool", "tool_call_id": identity, "name": name, "content": content}
        for identity, name, content in zip(answered, ("find_law", "count_days"), ("the law", "three"), strict=True)
    ]
    turns: list[dict[str, object]] = [
        {"role": "user", "content": "Which law, how many days?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        *results,
        {"role": "assistant", "content": "So it is."},
    ]
    return read_chat(turns, tools=json.loads(TOOLS))


def text_of(row: Conversation, template: str) -> str:
    tokenizer: Any = tokenizer_for(template)
    return encode([row], tokenizer)[0].text


def test_ids_of_calls_and_names_of_results_reach_the_template() -> None:
    row = calling_chat("abcDEF123", 123456789, answered=("abcDEF123", 123456789))
    assert [(turn.tool_call_id, turn.name) for turn in row.messages[2:4]] == [
        ("abcDEF123", "find_law"),
        ("123456789", "count_days"),
    ]
    text = text_of(row, STRICT_IDS.replace("call.function | tojson", "call.function.name"))
    assert "[TOOL_CALLS]abcDEF123 find_law123456789 count_days</s>" in text
    assert "[RESULT]abcDEF123 find_law the law[RESULT]123456789 count_days three" in text


@pytest.mark.parametrize(
    ("first", "second", "answered"),
    [
        (None, None, (None, None)),
        ("call_000000001", "call_000000002", ("call_000000001", "call_000000002")),
        ("call_000000001", "call_000000002", ("call_000000002", "call_000000001")),
        ("call_000000001", "call_000000002", (None, None)),
    ],
)
def test_other_ids_are_written_as_the_template_wants_them(
    first: object, second: object, answered: tuple[object, object]
) -> None:
    row = calling_chat(first, second, answered=answered)
    text = text_of(row, STRICT_IDS.replace("call.function | tojson", "call.function.name"))
    called = text.partition("[TOOL_CALLS]")[2].partition("</s>")[0]
    ids = [called[:9], called[len("123456789 find_law") :][:9]]
    assert ids[0] != ids[1] and all(identity.isalnum() for identity in ids)
    results = [part[:9] for part in text.split("[RESULT]")[1:]]
    assert results == (ids[::-1] if answered[0] == "call_000000002" else ids)


def test_a_template_of_the_mistral_kind_masks_calls_and_answers() -> None:
    row = calling_chat(None, None, answered=(None, None))
    template = STRICT_IDS.replace("call.function | tojson", "call.function.name")
    untooled = Conversation(item_id="1", source="f:1", messages=row.messages)
    (encoded,) = encode([untooled], tokenizer_for(template))
    calls, answer = learned(encoded).split("|")
    assert calls.startswith("[TOOL_CALLS]") and calls.endswith("count_days</s>")
    assert answer == " So it is.</s>"


def test_rows_that_differ_in_ids_alone_are_the_same() -> None:
    row = calling_chat("a", "b", answered=("a", "b"))
    assert content_digest(row) == content_digest(calling_chat("c", "d", answered=("c", "d")))
    assert content_digest(row) == content_digest(calling_chat(None, None, answered=(None, None)))
