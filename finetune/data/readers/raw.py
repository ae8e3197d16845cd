"""The row that every reader yields, the file that it reads, and what readers share; imported by all readers."""

import io
import json
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.readers.compressed import PACKED_SUFFIXES, open_binary
from finetune.errors import DataError
from finetune.records import Rejection

KEPT_CHARACTERS = 10_000
"""So much of a rejected row is kept."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One record as its file holds it: cells by column name, and where it stands (`train.jsonl:12`)."""

    values: dict[str, object]
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What hostile input may cost; the defaults are those of `data.max_line_bytes` and `data.max_expansion`."""

    max_line_bytes: int = 32_000_000
    """A longer line, record, cell or document is rejected, never held in memory as a whole."""
    max_expansion: float = 200.0
    """A compressed file that grows by more than this factor is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file to be read, the name that its rows carry, and the limits."""

    path: Path
    name: str
    limits: Limits = field(default_factory=Limits)

    @property
    def kind(self) -> str:
        """The ending that tells the reader, without .gz or .zst: `.jsonl`."""
        return file_kind(self.path)

    def open(self) -> io.BufferedReader:
        """Open the file for reading bytes, decompressed where its ending says so.

        Raises:
            DataError: as `open_binary`; while reading, too.
        """
        return open_binary(self.path, self.name, max_expansion=self.limits.max_expansion)


def file_kind(path: Path) -> str:
    """The lower-case ending of a file's name without the compression's: `.csv` of `A.CSV.gz`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in PACKED_SUFFIXES else suffix


def rejected(source: str, reason: str, detail: str, content: object = "") -> Rejection:
    """Make a Rejection that keeps the beginning of `content`: text, bytes, or cells that are written as JSON."""
    if isinstance(content, bytes):
        text = content[: 4 * KEPT_CHARACTERS].decode("utf-8", errors="replace")
    elif isinstance(content, str):
        text = content[:KEPT_CHARACTERS].encode("utf-8", errors="replace").decode("utf-8")
    else:
        text = json.dumps(_shortened(content), ensure_ascii=False, default=str)
    return Rejection(source=source, reason=reason, detail=detail, content=text[:KEPT_CHARACTERS])


def _shortened(cells: object) -> object:
    if isinstance(cells, dict):
        return {str(name): _shortened(value) for name, value in list(cells.items())[:1000]}
    if isinstance(cells, list):
        return [_shortened(value) for value in cells[:1000]]
    return cells[:KEPT_CHARACTERS] if isinstance(cells, str | bytes) else cells


def decode_utf8(content: bytes, source: str) -> str:
    """Decode a whole document and drop a byte order mark.

    Raises:
        DataError: it is not UTF-8, or holds NUL bytes; names byte, offset and line.
    """
    check_not_utf16(content[:4], source)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{source}:{line}: not UTF-8 (byte 0x{content[error.start]:02x} at offset {error.start}). "
            f"Save the file as UTF-8, for example: {_iconv('WINDOWS-1252', source)}"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{source}:{line}: holds a NUL byte, so it is no text file. Give text saved as UTF-8")
    return text


def byte_problem(content: bytes, first_line: int | None = None) -> str | None:
    """Why a line of bytes is no text: not UTF-8, or a NUL byte; None where it is.

    `first_line` numbers the first line of content that may have several.
    """
    try:
        content.decode("utf-8")
        at = content.find(b"\0")
        if at < 0:
            return None
        problem, help_text = "a NUL byte", "no text, or a damaged file"
    except UnicodeDecodeError as error:
        at = error.start
        problem = f"not UTF-8: byte 0x{content[at]:02x}"
        help_text = "save the file as UTF-8, for example with iconv -f WINDOWS-1252 -t UTF-8"
    num_lines = content.count(b"\n", 0, at)
    line_start = content.rfind(b"\n", 0, at) + 1
    line = "" if first_line is None else f"line {first_line + num_lines} "
    return f"{problem} at {line}column {at - line_start + 1}; {help_text}"


def check_not_utf16(head: bytes, source: str) -> None:
    """Refuse a file whose first four bytes are UTF-16 or UTF-32, with a byte order mark or without.

    Raises:
        DataError: it does.
    """
    marked = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    little = len(head) == 4 and head[1] == 0 and head[3] == 0 and head[0] != 0
    big = len(head) == 4 and head[0] == 0 and head[2] == 0 and head[3] != 0
    if marked or little or big:
        encoding = "UTF-16" if marked else "UTF-16LE" if little else "UTF-16BE"
        sign = "byte order mark at offset 0" if marked else "NUL in every second byte"
        raise DataError(
            f"{source}:1: UTF-16, not UTF-8 ({sign}). Save the file as UTF-8, for example: {_iconv(encoding, source)}"
        )


def _iconv(encoding: str, source: str) -> str:
    name = Path(source).name
    return f"iconv -f {encoding} -t UTF-8 {name} > utf8-{name}"


def name_bytes(number: float) -> str:
    """A size for a message: `3,200 bytes` or `32.0 MB`."""
    return f"{number / 1e6:,.1f} MB" if number >= 1e6 else f"{number:,.0f} bytes"


def too_long(source: str, what: str, num_bytes: int, limits: Limits, content: object = "") -> Rejection:
    """The Rejection of a line, record or document beyond `data.max_line_bytes`."""
    detail = (
        f"{what} of {name_bytes(num_bytes)}, more than data.max_line_bytes={limits.max_line_bytes}; split it, or raise "
        "the limit (costs memory)"
    )
    return rejected(source, "too_long", detail, content)


def row_within(values: dict[str, object], source: str, limits: Limits) -> RawRow | Rejection:
    """The row of a table that was read cell by cell, or its Rejection where it is beyond `data.max_line_bytes`."""
    num_bytes = sum(_num_bytes(cell) for cell in values.values())
    if num_bytes > limits.max_line_bytes:
        return too_long(source, "a row", num_bytes, limits, values)
    return RawRow(values, source)


def _num_bytes(cell: object) -> int:
    """About the bytes of the text in a cell."""
    if isinstance(cell, str | bytes):
        return len(cell)
    if isinstance(cell, list):
        return sum(map(_num_bytes, cell))
    return sum(map(_num_bytes, cell.values())) if isinstance(cell, dict) else 8
