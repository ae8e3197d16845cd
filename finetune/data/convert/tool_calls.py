"""Tools and tool calls of chats, in the ways that data sets write them, as JSON text. Called by chats.py."""

import json
from collections.abc import Mapping

from finetune.data.convert.cells import RowProblem, find_column, is_null, parsed_cell


def json_text(value: object, where: str) -> str:
    """Write a nested value as JSON.

    Raises:
        RowProblem: wrong_type; it has keys that JSON cannot hold, or is nested too deeply.
    """
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowProblem("wrong_type", f"{where} cannot be written as JSON ({str(error)[:80]})") from None


def read_calls(value: object, where: str) -> str:
    """Return calls as JSON text of [{"id": …, "type": "function", "function": {"name": …, "arguments": {…}}}, …].

    A call may be OpenAI's object or the bare {"name": …, "arguments": …}; the arguments an object or its JSON text.
    A call without an id is written without one.

    Raises:
        RowProblem: wrong_type.
    """
    parsed = parsed_cell(value)
    calls = parsed if isinstance(parsed, (list, tuple)) else [parsed]
    written: list[dict[str, object]] = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
            raise RowProblem("wrong_type", f'{where} makes a call that is no {{"name": …, "arguments": …}}')
        arguments = function.get("arguments", function.get("parameters"))
        arguments = parsed_cell(arguments.strip() if isinstance(arguments, str) else arguments)
        if is_null(arguments) or arguments == "":
            arguments = {}
        if not isinstance(arguments, dict):
            raise RowProblem("wrong_type", f"{where} calls {function['name']!r} with arguments that are no JSON object")
        identity = call_id(call.get("id")) if isinstance(call, dict) else None
        named: dict[str, object] = {} if identity is None else {"id": identity}
        written.append(named | {"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return json_text(written, where)


def call_id(value: object) -> str | None:
    """The id of a call, or of the call that a tool turn answers: text or a whole number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value).strip() or None


def read_tools(values: Mapping[str, object]) -> str | None:
    """Return the column `tools` as JSON text of a list, or None where there are none.

    Nulls inside a tool are left out: Parquet and Arrow files give every tool the keys of all others.

    Raises:
        RowProblem: wrong_type.
    """
    column = find_column(values, "tools", "functions")
    value = parsed_cell(values[column]) if column is not None else None
    if is_null(value) or value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, dict):
        value = [value]
    tools = [parsed_cell(tool) for tool in value] if isinstance(value, (list, tuple)) else []
    if not tools or not all(isinstance(tool, dict) and tool for tool in tools):
        raise RowProblem("wrong_type", f"{column!r} is no list of tools, nor the JSON text of one")
    for number, tool in enumerate(tools, start=1):
        function = tool.get("function") or tool if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RowProblem("wrong_type", f"tool {number} of {column!r} has no name")
    return json_text([_without_nulls(tool) for tool in tools], repr(column))


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
