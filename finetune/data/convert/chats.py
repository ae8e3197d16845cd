"""Rows that are whole chats: `messages` (OpenAI, TRL) and ShareGPT's `conversations`. Called by formats.py.

Turns are objects with `role` and `content`, or with `from` and `value`; a list of them may be written as JSON text.
"""

from collections.abc import Mapping

from finetune.config import DataConfig, LossOn
from finetune.data.convert.cells import (
    RowProblem,
    cell_text,
    find_column,
    is_empty,
    is_null,
    optional_text,
    parsed_cell,
    type_name,
)
from finetune.data.convert.row_content import Content
from finetune.data.convert.tool_calls import call_id, json_text, read_calls, read_tools
from finetune.records import Message

MESSAGES_COLUMNS = ("messages", "conversations", "conversation")
SHAREGPT_COLUMNS = ("conversations", "conversation", "messages")
SYSTEM_COLUMNS = ("system", "system_prompt")
COMPLETION_COLUMNS = ("completion", "response")

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
"""Role names in use, and the role that each one means."""

REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names under which a turn keeps the assistant's thoughts; the first that is not empty counts."""

_CALLING_ROLES = ("function_call", "tool_call")
"""Turns that are a call and nothing else, as LLaMA-Factory writes them."""


def looks_like_messages(value: object) -> bool:
    """Whether a cell holds a list of {"role": …, "content": …}."""
    return _first_has(value, "role")


def looks_like_sharegpt(value: object) -> bool:
    """Whether a cell holds a list of {"from": …, "value": …}."""
    return _first_has(value, "from")


def _first_has(value: object, key: str) -> bool:
    """Whether the first turn has the key; a null does not count, since Parquet gives every turn the keys of all."""
    items = parsed_cell(value)
    first = items[0] if isinstance(items, (list, tuple)) and items else None
    return isinstance(first, dict) and not is_null(first.get(key))


def read_messages(values: Mapping[str, object], data: DataConfig) -> Content:
    """Read the column `messages`, or `prompt` and `completion` one after the other, with `system` and `tools`.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    column = find_column(values, *MESSAGES_COLUMNS)
    has_prompt = find_column(values, "prompt") is not None
    if column is None and not has_prompt:
        raise RowProblem("missing_column", "no column 'messages'")
    if column is not None and not (has_prompt and is_empty(values[column])):
        messages = read_turns(values[column], column)
    else:
        messages = [
            *read_side(values, "prompt", role="user"),
            *read_side(values, *COMPLETION_COLUMNS, role="assistant"),
        ]
    return _chat(messages, values, data)


def read_sharegpt(values: Mapping[str, object], data: DataConfig) -> Content:
    """Read the column `conversations`, with the columns `system` and `tools` where there are any.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    column = find_column(values, *SHAREGPT_COLUMNS)
    if column is None:
        raise RowProblem("missing_column", "no column 'conversations'")
    return _chat(read_turns(values[column], column), values, data)


def _chat(messages: list[Message], values: Mapping[str, object], data: DataConfig) -> Content:
    _check_all_carry_loss(values, data)
    return Content(messages=tuple(with_system_column(messages, values)), tools=read_tools(values))


def with_system_column(messages: list[Message], values: Mapping[str, object]) -> list[Message]:
    """Put the row's column `system` before turns that have no system message of their own."""
    system = optional_text(values, *SYSTEM_COLUMNS)
    if system.strip() and messages and messages[0].role != "system":
        return [Message(role="system", content=system), *messages]
    return messages


def read_side(values: Mapping[str, object], *names: str, role: str) -> list[Message]:
    """Read a column that holds turns, a single turn, or the text of one turn of `role`.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    column = find_column(values, *names)
    if column is None:
        raise RowProblem("missing_column", f"no column {' or '.join(map(repr, names))}")
    value = values[column]
    parsed = parsed_cell(value)
    if isinstance(parsed, (list, tuple)) and (not isinstance(value, str) or looks_like_chat(parsed)):
        return read_turns(parsed, column)
    if isinstance(parsed, dict) and ("role" in parsed or "from" in parsed):
        return read_turns([parsed], column)
    if is_null(value):
        raise RowProblem("null", f"{column!r} is null")
    if not isinstance(value, str):
        raise RowProblem("wrong_type", f"{column!r} is {type_name(value)}, neither text nor a list of turns")
    return [Message(role=role, content=value)]


def looks_like_chat(value: object) -> bool:
    """Whether a cell holds a list of turns of either kind."""
    return looks_like_messages(value) or looks_like_sharegpt(value)


def read_turns(value: object, column: str) -> list[Message]:
    """Return the turns that a cell holds; the first turn tells which of the two kinds they are.

    Raises:
        RowProblem: null or wrong_type.
    """
    if is_null(value):
        raise RowProblem("null", f"{column!r} is null")
    items = parsed_cell(value)
    if not isinstance(items, (list, tuple)):
        raise RowProblem("wrong_type", f"{column!r} is {type_name(value)}, not a list of turns")
    if not items:
        raise RowProblem("null", f"{column!r} is an empty list")
    role_key, content_key = ("from", "value") if looks_like_sharegpt(items) else ("role", "content")
    turns: list[Message] = []
    for number, item in enumerate(items, start=1):
        where = f"turn {number} of {column!r}"
        if not isinstance(item, dict) or role_key not in item:
            raise RowProblem("wrong_type", f"{where} is no object with {role_key!r} and {content_key!r}")
        name = item[role_key]
        if not isinstance(name, str) or name.strip().lower() not in _ROLES:
            raise RowProblem("wrong_type", f"{where} has the unknown role {name!r}; known: {', '.join(_ROLES)}")
        turns.append(_turn(item, name.strip().lower(), content_key, where))
    return turns


def _turn(item: Mapping[str, object], name: str, content_key: str, where: str) -> Message:
    role = _ROLES[name]
    content = item.get(content_key)
    calls = item.get("tool_calls") or item.get("function_call")
    if name in _CALLING_ROLES and not calls:
        calls, content = content, None
    tool_calls = None if is_null(calls) or calls in ("", []) else read_calls(calls, where)
    if tool_calls is not None and role != "assistant":
        raise RowProblem("wrong_type", f"{where} ({role}) makes a tool call; only an assistant does")
    if is_null(content):
        if tool_calls is None:
            raise RowProblem("null", f"{where} has no {content_key!r}")
        content = ""
    is_result = role == "tool"
    return Message(
        role=role,
        content=_content_text(content, role, where),
        tool_calls=tool_calls,
        reasoning_content=_thoughts(item, where) if role == "assistant" else None,
        tool_call_id=call_id(item.get("tool_call_id")) if is_result else None,
        name=call_id(item.get("name")) if is_result else None,
    )


def _thoughts(item: Mapping[str, object], where: str) -> str | None:
    """What an assistant's turn holds beside its content, under one of the names in use; a flag is no thought."""
    for key in REASONING_KEYS:
        value = item.get(key)
        if isinstance(value, (list, tuple, dict)) and value:
            raise RowProblem("wrong_type", f"{where} has {type_name(value)} for its {key!r}, not text")
        if isinstance(value, str) and value.strip():
            return value
    return None


def _content_text(content: object, role: str, where: str) -> str:
    """Accept text, a list of {"type": "text"} parts or of texts, and JSON values as a tool's result."""
    if isinstance(content, str):
        return content
    parts = list(content) if isinstance(content, (list, tuple)) else []
    if parts and all(_is_text_part(part) for part in parts):
        return "\n".join(part if isinstance(part, str) else cell_text(part["text"]) for part in parts)
    if role == "tool":
        return json_text(content, where)
    for part in parts:
        if isinstance(part, dict) and part.get("type", "text") != "text":
            raise RowProblem("wrong_type", f"{where} holds a part of type {part['type']!r}; only text can be learnt")
    raise RowProblem("wrong_type", f"{where} has {type_name(content)} for its content, not text")


def _is_text_part(part: object) -> bool:
    if isinstance(part, dict):
        return isinstance(part.get("text"), str) and part.get("type", "text") in ("text", None)
    return isinstance(part, str)


def _check_all_carry_loss(values: Mapping[str, object], data: DataConfig) -> None:
    """Refuse turns marked `weight: 0` (OpenAI) or `train: false` (Axolotl) that would be learnt all the same.

    Raises:
        RowProblem: wrong_type.
    """
    for name in (*MESSAGES_COLUMNS, "prompt", *COMPLETION_COLUMNS):
        column = find_column(values, name)
        items = parsed_cell(values[column]) if column is not None else None
        for number, item in enumerate(items if isinstance(items, list) else [], start=1):
            if not isinstance(item, dict) or _carries_loss(item):
                continue
            is_last = name != "prompt" and isinstance(items, list) and number == len(items)
            if is_last or data.loss_on is LossOn.all_turns:
                raise RowProblem(
                    "wrong_type",
                    f"turn {number} of {column!r} is marked as not to be learnt (weight or train). Remove the mark, "
                    "or learn the last turns alone (data.loss_on=last_turn)",
                )


def _carries_loss(turn: Mapping[str, object]) -> bool:
    """Whether an assistant's turn bears no mark that excludes it; other turns carry no loss anyway."""
    name = turn.get("role", turn.get("from"))
    if not isinstance(name, str) or _ROLES.get(name.strip().lower()) != "assistant":
        return True
    excluded = turn.get("weight") == 0 and not isinstance(turn.get("weight"), bool)
    return not excluded and turn.get("train") is not False
