"""Rows that are whole chats: `messages` (OpenAI, TRL) and ShareGPT's `conversations`. Called by formats.py."""

import json
from collections.abc import Mapping

from finetune.data.cells import RowProblem, cell_text, find_column, is_null, type_name
from finetune.records import Message

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
"""Role names in use, and the role that each one means."""


def looks_like_messages(value: object) -> bool:
    """Whether a cell holds a list of {"role": …, "content": …}."""
    return _first_has(value, "role")


def looks_like_sharegpt(value: object) -> bool:
    """Whether a cell holds a list of {"from": …, "value": …}."""
    return _first_has(value, "from")


def _first_has(value: object, key: str) -> bool:
    items = _parsed(value)
    return isinstance(items, list) and bool(items) and isinstance(items[0], dict) and key in items[0]


def _parsed(value: object) -> object:
    """Parse a cell that holds JSON text (a chat in a .csv file); other cells stay as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def read_messages(values: Mapping[str, object]) -> list[Message]:
    """Read the column `messages`, or the lists `prompt` and `completion` one after the other.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    column = find_column(values, "messages", "conversations", "conversation")
    if column is not None:
        return _turns(values[column], column, role_key="role", content_key="content")
    turns: list[Message] = []
    for name in ("prompt", "completion"):
        column = find_column(values, name)
        if column is None:
            raise RowProblem("missing_column", "no column 'messages'")
        turns += _turns(values[column], column, role_key="role", content_key="content")
    return turns


def read_sharegpt(values: Mapping[str, object]) -> list[Message]:
    """Read the column `conversations`, with the column `system` before it where there is one.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    column = find_column(values, "conversations", "conversation", "messages")
    if column is None:
        raise RowProblem("missing_column", "no column 'conversations'")
    return _turns(values[column], column, role_key="from", content_key="value")


def _turns(value: object, column: str, *, role_key: str, content_key: str) -> list[Message]:
    if is_null(value):
        raise RowProblem("null", f"{column!r} is null")
    items = _parsed(value)
    if not isinstance(items, list):
        raise RowProblem("wrong_type", f"{column!r} is {type_name(value)}, not a list of turns")
    turns: list[Message] = []
    for number, item in enumerate(items, start=1):
        where = f"turn {number} of {column!r}"
        if not isinstance(item, dict) or role_key not in item:
            raise RowProblem("wrong_type", f"{where} is no object with {role_key!r} and {content_key!r}")
        name = item[role_key]
        role = _ROLES.get(name.strip().lower()) if isinstance(name, str) else None
        if role is None:
            raise RowProblem("wrong_type", f"{where} has the unknown role {name!r}; known: {', '.join(_ROLES)}")
        turns.append(_turn(item, str(name), role, content_key, where))
    return turns


def _turn(item: Mapping[str, object], name: str, role: str, content_key: str, where: str) -> Message:
    content = item.get(content_key)
    calls = item.get("tool_calls") or item.get("function_call")
    if name.strip().lower() == "function_call":
        calls, content = content, ""
    if is_null(content):
        if not calls:
            raise RowProblem("null", f"{where} has no {content_key!r}")
        content = ""
    tool_calls = None if is_null(calls) or calls in ("", []) else _tool_calls(calls, where)
    return Message(role=role, content=_content_text(content, role, where), tool_calls=tool_calls)


def _content_text(content: object, role: str, where: str) -> str:
    """Accept text, a list of {"type": "text"} parts, and JSON values as a tool's result."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(isinstance(part, dict) and "text" in part for part in content):
        return "\n".join(cell_text(part["text"]) for part in content)
    if role == "tool":
        return json.dumps(content, ensure_ascii=False, default=str)
    raise RowProblem("wrong_type", f"{where} has {type_name(content)} for its content, not text")


def _tool_calls(value: object, where: str) -> str:
    """Return calls as JSON text of [{"type": "function", "function": {"name": …, "arguments": {…}}}, …]."""
    parsed = _parsed(value)
    calls = parsed if isinstance(parsed, list) else [parsed]
    written: list[dict[str, object]] = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowProblem("wrong_type", f'{where} makes a call that is no {{"name": …, "arguments": …}}')
        arguments = _parsed(function.get("arguments", {}))
        written.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return json.dumps(written, ensure_ascii=False, default=str)


def read_tools(values: Mapping[str, object]) -> str | None:
    """Return the column `tools` as JSON text of a list, or None where there are none.

    Raises:
        RowProblem: wrong_type.
    """
    column = find_column(values, "tools", "functions")
    value = _parsed(values[column]) if column is not None else None
    if is_null(value) or value in ("", []):
        return None
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise RowProblem("wrong_type", f"{column!r} is no list of tools, nor the JSON text of one")
    return json.dumps(value, ensure_ascii=False, default=str)
