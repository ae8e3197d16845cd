"""Reads .jsonl line by line, and turns one JSON text into a row. Called by load.py and json_stream.py."""

import io
import json
from collections.abc import Iterator
from typing import NamedTuple

from finetune.data.readers.raw import (
    KEPT_CHARACTERS,
    RawRow,
    SourceFile,
    byte_problem,
    check_not_utf16,
    rejected,
    too_long,
)
from finetune.errors import DataError
from finetune.records import Rejection

DEEPEST = 200
"""JSON nested deeper than this is rejected: nothing that reads a row later can recurse without end."""

_MOST_VALUES = 2_000_000
_BIG_ENOUGH_TO_COUNT = 1_000_000
_AT_ONCE = 1024 * 1024


class Line(NamedTuple):
    """A physical line; of one that is too long `content` holds the beginning alone."""

    number: int
    content: bytes
    num_bytes: int


def read_jsonl(file: SourceFile) -> Iterator[RawRow | Rejection]:
    """Read one JSON object per line; memory is bounded by `max_line_bytes`. Other lines are a Rejection each.

    Raises:
        DataError: the file is UTF-16, or its first line starts a JSON list.
    """
    with file.open() as stream:
        check_not_utf16(stream.peek(4)[:4], file.name)
        for line in read_lines(stream, file.limits.max_line_bytes):
            source = f"{file.name}:{line.number}"
            if line.num_bytes > file.limits.max_line_bytes:
                yield too_long(source, "a line", line.num_bytes, file.limits, line.content)
                continue
            content = line.content.removeprefix(b"\xef\xbb\xbf") if line.number == 1 else line.content
            if line.number == 1 and content.lstrip().startswith(b"["):
                _check_no_list(content, source)
            if content.strip():
                yield row_of(content, source)


def read_lines(stream: io.BufferedReader, max_bytes: int) -> Iterator[Line]:
    """Split at newlines, never holding more than `max_bytes` and one block of a line."""
    number = 0
    while content := stream.readline(max_bytes + 2):
        number += 1
        num_bytes = len(content)
        if num_bytes > max_bytes and not content.endswith(b"\n"):
            content = content[: 4 * KEPT_CHARACTERS]
            while rest := stream.readline(_AT_ONCE):
                num_bytes += len(rest)
                if rest.endswith(b"\n"):
                    break
        yield Line(number, content, len(content.rstrip(b"\r\n")) if num_bytes == len(content) else num_bytes)


def _check_no_list(content: bytes, source: str) -> None:
    try:
        whole = isinstance(json.loads(content), list)
    except (ValueError, RecursionError):
        whole = False
    if not whole or b"{" in content:
        raise DataError(
            f"{source}: starts a JSON list, but a .jsonl file holds one object {{…}} per line. "
            "Name the file .json if it is one list"
        )


def row_of(content: bytes, source: str, *, first_line: int | None = None) -> RawRow | Rejection:
    """Parse one JSON object. `first_line` is where it starts in a file that is no JSON Lines, for messages."""
    try:
        text = content.decode("utf-8").strip()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return rejected(source, "encoding", str(byte_problem(content.lstrip(), first_line)), content)
    value, problem = parse_json(text, first_line=first_line)
    if problem is not None:
        return rejected(source, "wrong_type", problem, content)
    if not isinstance(value, dict):
        return rejected(source, "wrong_type", f"a JSON {json_kind(value)}, not an object {{…}}", content)
    return RawRow(value, source)


def _where(first_line: int | None) -> str:
    return "" if first_line is None else f" (the row starts on line {first_line})"


def parse_json(text: str, *, first_line: int | None = None) -> tuple[object, str | None]:
    """Parse JSON of bounded depth and size: the value and None, or None and what is wrong with the text."""
    if len(text) > _BIG_ENOUGH_TO_COUNT and sum(map(text.count, ",[{")) > _MOST_VALUES:
        return None, f"more than {_MOST_VALUES:,} values in one row{_where(first_line)}"
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = "" if first_line is None else f"line {first_line + error.lineno - 1} "
        hint = "; is a comma or a newline missing between two rows?" if error.msg == "Extra data" else ""
        return None, f"not JSON ({error.msg} at {line}column {error.colno}){hint}"
    except RecursionError:
        return None, f"JSON nested too deeply{_where(first_line)}"
    except ValueError as error:
        return None, f"cannot be read as JSON ({str(error).split(';')[0]}){_where(first_line)}"
    if text.count("[") + text.count("{") > DEEPEST and _deeper_than(value, DEEPEST):
        return None, f"JSON nested too deeply, over {DEEPEST} levels{_where(first_line)}"
    return value, None


def _deeper_than(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit + 1):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(part for part in item.values() if isinstance(part, dict | list))
            elif isinstance(item, list):
                inner.extend(part for part in item if isinstance(part, dict | list))
        if not inner:
            return False
        level = inner
    return True


def json_kind(value: object) -> str:
    """What JSON calls a value: object, list, string, boolean, number or null."""
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
