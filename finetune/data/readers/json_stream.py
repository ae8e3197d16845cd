"""Reads .json: a list of objects, objects by id, or one list inside an object; item by item. Called by load.py.

The bytes are cut at the commas of one level without being parsed; each piece then is parsed alone. So memory is bounded
by the largest piece, whatever the size of the file, and one broken piece costs one row.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune.data.readers.json_lines import json_kind, parse_json, row_of
from finetune.data.readers.raw import KEPT_CHARACTERS, RawRow, SourceFile, check_not_utf16, too_long
from finetune.errors import DataError
from finetune.records import Rejection

_AT_ONCE = 256 * 1024
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TO_BRACKET_OR_COMMA = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+", re.DOTALL)
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)
"""Both stop at a quote, too, if its string does not end in the block."""
_STRING_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_MEMBER = re.compile(rb"\s*(" + _STRING + rb")\s*:\s*", re.DOTALL)
_CLOSING = {b"[": b"]", b"{": b"}"}
_FEW_MEMBERS = 5
"""An object with one list of objects and more objects than these beside it holds rows by id."""
_MOST_OPENED = 1_000_000
"""More lists and objects in one item are an attack on the reader's time."""


@dataclass(slots=True)
class _Piece:
    """The text between two commas. Of one that is too long `content` holds the beginning alone."""

    content: bytearray
    line: int
    num_bytes: int = 0

    def first_line(self, start: int = 0) -> int:
        """The line of the first character that is no white space from `start` on."""
        rest = self.content[start : start + 4 * KEPT_CHARACTERS]
        return self.line + self.content.count(b"\n", 0, start + len(rest) - len(rest.lstrip()))


def read_json(file: SourceFile) -> Iterator[RawRow | Rejection]:
    """Yield the rows of a list, of an object of objects by id, or of an object with one list such as {"data": […]}.

    Raises:
        DataError: the file is empty, UTF-16, cut short, or of another shape.
    """
    first = _first_byte(file)
    if first == b"[":
        yield from _list_rows(file, level=1)
        return
    if first != b"{":
        raise _wrong_shape(file)
    kinds, keys = _members(file)
    lists = [number for number, kind in enumerate(kinds) if kind == b"[{"]
    num_objects = sum(kind[:1] == b"{" for kind in kinds)
    if len(lists) == 1 and num_objects <= _FEW_MEMBERS:
        yield from _list_rows(file, level=2, member=lists[0])
    elif num_objects * 2 >= max(len(kinds), 1):
        yield from _rows_by_id(file)
    else:
        raise DataError(f"{file.name}: holds one JSON object with the keys {', '.join(keys)}; {_EXPECTED}")


_EXPECTED = 'expected a list of objects [{…}, …], objects by id {"id-1": {…}, …}, or {"data": [{…}, …]}'


def _first_byte(file: SourceFile) -> bytes:
    with file.open() as stream:
        head = stream.peek(4)[:4]
        check_not_utf16(head, file.name)
        content = stream.read(_AT_ONCE).removeprefix(b"\xef\xbb\xbf").lstrip()
        while not content and (block := stream.read(_AT_ONCE)):
            content = block.lstrip()
    if not content:
        raise DataError(f"{file.name}: the file is empty (only white space). Give a file with rows")
    return content[:1]


def _wrong_shape(file: SourceFile) -> DataError:
    with file.open() as stream:
        text = stream.read(KEPT_CHARACTERS).decode("utf-8-sig", errors="replace")
    value, problem = parse_json(text, first_line=1)
    if problem is not None:
        line = text[: len(text) - len(text.lstrip())].count("\n") + 1
        return DataError(f"{file.name}:{line}: {problem}. Mend the file at that place; {_EXPECTED}")
    return DataError(f"{file.name}: holds one JSON {json_kind(value)}; {_EXPECTED}")


def _list_rows(file: SourceFile, *, level: int, member: int = 0) -> Iterator[RawRow | Rejection]:
    for index, piece in enumerate(_pieces(file, level=level, member=member)):
        source = f"{file.name}:[{index}]"
        if piece.num_bytes > file.limits.max_line_bytes:
            yield _piece_too_long(file, piece, source)
        else:
            yield row_of(bytes(piece.content), source, first_line=piece.first_line())


def _rows_by_id(file: SourceFile) -> Iterator[RawRow | Rejection]:
    for index, piece in enumerate(_pieces(file, level=1)):
        found = _MEMBER.match(piece.content)
        key = _key(found)
        source = f"{file.name}:{f'[{index}]' if key is None else key}"
        if piece.num_bytes > file.limits.max_line_bytes:
            yield _piece_too_long(file, piece, source)
            continue
        start = found.end() if found else 0
        row = row_of(bytes(piece.content[start:]), source, first_line=piece.first_line(start))
        if isinstance(row, RawRow) and "id" not in row.values:
            row.values["id"] = key
        yield row


def _piece_too_long(file: SourceFile, piece: _Piece, source: str) -> Rejection:
    what = f"an item (it starts on line {piece.first_line()})"
    return too_long(source, what, piece.num_bytes, file.limits, bytes(piece.content[: 4 * KEPT_CHARACTERS]))


def _key(found: re.Match[Any] | None) -> str | None:
    try:
        return json.loads(found[1]) if found else None
    except ValueError:
        return None


def _members(file: SourceFile) -> tuple[list[bytes], list[str]]:
    """The first bytes of each member's value (`[{`: a list of objects), and the first keys."""
    kinds: list[bytes] = []
    keys: list[str] = []
    for piece in _pieces(file, level=1):
        found = _MEMBER.match(piece.content)
        value = piece.content[found.end() : found.end() + 1000] if found else b""
        kinds.append(bytes(value[:1] + value[1:].lstrip()[:1] if value[:1] == b"[" else value[:1]))
        if len(keys) < 10:
            keys.append(_key(found) or "?")
    return kinds, keys


def _pieces(file: SourceFile, *, level: int, member: int = 0) -> Iterator[_Piece]:
    """Cut the outermost list or object (level 1), or the list in its `member` (level 2), at its commas.

    Raises:
        DataError: a bracket closes what another one opened, the file ends too early, or goes on after its end.
    """
    with file.open() as stream:
        cutter = _Cutter(file, level, member)
        start = True
        while block := stream.read(_AT_ONCE):
            yield from cutter.feed(block.removeprefix(b"\xef\xbb\xbf") if start else block)
            start = False
        cutter.finish()


class _Cutter:
    """Follows strings and brackets through blocks of bytes, and cuts at the commas of one level."""

    def __init__(self, file: SourceFile, level: int, member: int) -> None:
        self._name, self._max_bytes = file.name, file.limits.max_line_bytes
        self._level, self._wanted = level, member
        self._piece: _Piece | None = None
        self._first_piece = True
        self._opened: list[bytes] = []
        """The brackets that are open on the first two levels; deeper ones are only counted."""
        self._depth = self._member = self._num_opened = 0
        self._line = 1
        self._in_string = self._escaped = self._finished = False
        self._start = self._counted = 0
        """Where in the block the piece's unsaved bytes start, and up to where lines are counted."""

    def feed(self, block: bytes) -> Iterator[_Piece]:
        """Take the next block; give the pieces that end in it."""
        self._start = self._counted = 0
        position = self._pass_string(block, 0)
        while not self._finished:
            upto = _TO_BRACKET_OR_COMMA if self._depth <= self._level else _TO_BRACKET
            found = upto.match(block, position)
            position = found.end() if found else position
            if position >= len(block):
                break
            token = block[position : position + 1]
            position += 1
            if token == b'"':
                self._in_string = True
                position = self._pass_string(block, position)
                continue
            piece = self._take(token, block, position - 1)
            if piece is not None:
                yield piece
        if self._finished and (rest := block[position:]).strip():
            self._count_lines(block, position + len(rest) - len(rest.lstrip()))
            raise self._broken("Extra data after the end", "If the file holds one object per line, name it .jsonl")
        self._add(block, len(block))
        self._count_lines(block, len(block))

    def finish(self) -> None:
        """Check that the file ended where its outermost bracket closed."""
        if not self._finished:
            what = "a missing quote or bracket, or a file cut short"
            raise self._broken(f"the file ends inside its {'list' if self._opened[0] == b'[' else 'object'}: {what}")

    def _pass_string(self, block: bytes, position: int) -> int:
        """Where the open string ends, or the end of the block."""
        if not self._in_string or position >= len(block):
            return position
        position += self._escaped
        self._escaped = False
        found = _STRING_REST.match(block, position)
        end = found.end() if found else position
        if end < len(block):
            self._in_string = block[end] != ord('"')
            self._escaped = self._in_string
            return end + 1
        return end

    def _take(self, token: bytes, block: bytes, at: int) -> _Piece | None:
        on_level = self._depth == self._level and self._piece is not None
        if token == b",":
            self._member += self._depth == 1
            return self._cut(block, at, last=False) if on_level else None
        if token in _CLOSING:
            self._depth += 1
            self._num_opened += 1
            if self._num_opened > _MOST_OPENED:
                raise self._broken(f"more than {_MOST_OPENED:,} lists and objects in one item")
            if self._depth <= 2:
                self._opened.append(token)
            if self._depth == self._level and (self._level == 1 or self._member == self._wanted):
                self._begin(block, at + 1)
            return None
        self._depth -= 1
        if self._depth < 2 and _CLOSING[self._opened.pop()] != token:
            self._count_lines(block, at)
            raise self._broken(f"{token.decode()!r} closes what another bracket opened")
        self._finished = self._depth == 0
        return self._cut(block, at, last=True) if on_level else None

    def _begin(self, block: bytes, at: int) -> None:
        self._count_lines(block, at)
        self._piece = _Piece(bytearray(), self._line)
        self._start = at
        self._num_opened = 0

    def _cut(self, block: bytes, at: int, *, last: bool) -> _Piece | None:
        """End the piece before `at`; the next one begins behind the comma."""
        piece = self._piece
        assert piece is not None
        self._add(block, at)
        blank = not piece.content.strip() and piece.num_bytes <= self._max_bytes
        if last:
            self._piece = None
            if blank and not self._first_piece:
                self._count_lines(block, at)
                raise self._broken("a comma before the closing bracket")
        else:
            self._begin(block, at + 1)
        first, self._first_piece = self._first_piece, False
        return None if last and blank and first else piece

    def _add(self, block: bytes, end: int) -> None:
        piece = self._piece
        if piece is None:
            return
        piece.num_bytes += end - self._start
        if piece.num_bytes <= self._max_bytes:
            piece.content += block[self._start : end]
        else:
            piece.content = piece.content[: 4 * KEPT_CHARACTERS]
            piece.content += block[self._start : self._start + 4 * KEPT_CHARACTERS - len(piece.content)]
        self._start = end

    def _count_lines(self, block: bytes, end: int) -> None:
        self._line += block.count(b"\n", self._counted, end)
        self._counted = end

    def _broken(self, problem: str, help_text: str = "Mend the file at that place") -> DataError:
        return DataError(f"{self._name}:{self._line}: not JSON ({problem}). {help_text}")
