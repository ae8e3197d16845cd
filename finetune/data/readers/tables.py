"""Reads .csv and .tsv record by record with the standard library's parser. Called by load.py."""

import csv
import io
import logging
from collections.abc import Iterator

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

logger = logging.getLogger(__name__)

_MOST_LINES = 100_000
"""A record of more lines is a cell whose closing quote is missing."""
_AT_ONCE = 1024 * 1024
_OTHER_DELIMITERS = (";", "\t")


def read_delimited(file: SourceFile) -> Iterator[RawRow | Rejection]:
    """Read a .csv (commas, or semicolons as spreadsheets write them) or .tsv whose first record names the columns.

    `source` names the physical line on which a record starts, as an editor shows it. A record that cannot be read is
    a Rejection; after a missing quote reading goes on with the next line.

    Raises:
        DataError: the file is UTF-16, or its header is no text, missing, or names a column twice.
    """
    csv.field_size_limit(2**31 - 1)
    with file.open() as binary:
        check_not_utf16(binary.peek(4)[:4], file.name)
        text = io.TextIOWrapper(binary, encoding="utf-8", errors="surrogateescape", newline="")
        lines = _Lines(text, file.limits.max_line_bytes)
        delimiter = "\t" if file.kind == ".tsv" else _delimiter(lines, file)
        header: list[str] | None = None
        for record in _records(lines, delimiter, file):
            if isinstance(record, Rejection):
                if header is None:
                    raise DataError(f"{record.source}: the header cannot be read: {record.detail}")
                yield record
            elif header is None:
                header = record
                _check_header(header, f"{file.name}:{lines.first}")
            else:
                yield _row(record, header, f"{file.name}:{lines.first}")


class _TooLong(Exception):
    """The record grows beyond its budget."""


class _Lines:
    """The physical lines that the parser takes, with those of the current record kept for a second try."""

    def __init__(self, text: io.TextIOWrapper, max_bytes: int) -> None:
        self._text, self._max_bytes = text, max_bytes
        self._again: list[tuple[int, str]] = []
        self._number = 0
        self.record: list[tuple[int, str]] = []
        """Number and text of each line taken since `start`."""
        self.num_bytes = 0
        self.ends_too_long = False
        """Whether the last line taken is alone beyond the budget; of it the beginning is kept."""

    def start(self) -> None:
        self.record, self.num_bytes, self.ends_too_long = [], 0, False

    @property
    def first(self) -> int:
        """The line on which the current record starts."""
        return self.record[0][0] if self.record else self._number

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        number, line = self._again.pop() if self._again else self._read()
        if not line:
            raise StopIteration
        num_bytes = len(line) if line.isascii() else len(line.encode("utf-8", errors="surrogateescape"))
        self.num_bytes += num_bytes
        if num_bytes > self._max_bytes:
            self.num_bytes += self._skip_line(line)
            self.record.append((number, line[:KEPT_CHARACTERS]))
            self.ends_too_long = True
            raise _TooLong
        self.record.append((number, line))
        if self.num_bytes > self._max_bytes or len(self.record) > _MOST_LINES:
            raise _TooLong
        return line

    def peek(self) -> str:
        """The first line, which is read again."""
        number, line = self._read()
        self._again.append((number, line))
        return line

    def try_again(self) -> None:
        """Forget the current record's first line alone; the others are read again."""
        self._again.extend(reversed(self.record[1:]))

    def _read(self) -> tuple[int, str]:
        line = self._text.readline(self._max_bytes + 2)
        self._number += 1
        return self._number, line.removeprefix("\ufeff") if self._number == 1 else line

    def _skip_line(self, line: str) -> int:
        num_characters = 0
        while not line.endswith(("\n", "\r")) and (line := self._text.readline(_AT_ONCE)):
            num_characters += len(line)
        return num_characters


def _delimiter(lines: _Lines, file: SourceFile) -> str:
    """The comma, unless the first line has none of them but another delimiter."""
    head = lines.peek()[:100_000]
    counts = {other: head.count(other) for other in _OTHER_DELIMITERS}
    best = max(_OTHER_DELIMITERS, key=counts.__getitem__)
    if "," in head or not counts[best]:
        return ","
    logger.info("%s: the header has no comma; columns are split at %r", file.name, best)
    return best


def _records(lines: _Lines, delimiter: str, file: SourceFile) -> Iterator[list[str] | Rejection]:
    """Each record's cells; `lines.first` is then its line. Blank lines are skipped."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.start()
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield _broken(lines, file, str(error))
        except _TooLong:
            yield _record_too_long(lines, file)
        else:
            if cells is None:
                return
            problem = _byte_problem(lines)
            if problem is not None:
                yield rejected(f"{file.name}:{lines.first}", "encoding", problem, _content(lines))
            elif cells:
                yield cells


def _broken(lines: _Lines, file: SourceFile, problem: str) -> Rejection:
    kind = file.kind[1:].upper()
    detail = (
        f'the record that starts here is no {kind} ({problem}); quote cells with "…" and write a quote inside as ""'
    )
    first = lines.record[0][1]
    source = f"{file.name}:{lines.first}"
    lines.try_again()
    return rejected(source, "wrong_type", detail, first)


def _record_too_long(lines: _Lines, file: SourceFile) -> Rejection:
    source = f"{file.name}:{lines.first}"
    if not lines.ends_too_long:
        return _broken(lines, file, f"a cell of over {len(lines.record) - 1:,} lines: its closing quote is missing")
    return too_long(source, "a record", lines.num_bytes, file.limits, _content(lines))


def _byte_problem(lines: _Lines) -> str | None:
    for number, line in lines.record:
        if line.isascii() and "\0" not in line:
            continue
        problem = byte_problem(line.encode("utf-8", errors="surrogateescape"))
        if problem is not None:
            return problem if number == lines.first else f"line {number}: {problem}"
    return None


def _content(lines: _Lines) -> bytes:
    text = "".join(line[:KEPT_CHARACTERS] for _, line in lines.record[:1000])
    return text[:KEPT_CHARACTERS].encode("utf-8", errors="surrogateescape")


def _check_header(header: list[str], source: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{source}: the header names {twice[0]!r} more than once. Give each column its own name")
    if not any(name.strip() for name in header):
        raise DataError(f"{source}: the header is empty. The first line must name the columns")


def _row(cells: list[str], header: list[str], source: str) -> RawRow | Rejection:
    if len(cells) > len(header):
        detail = f"{len(cells)} cells, but the header names {len(header)} columns (an unquoted delimiter?)"
        return rejected(source, "wrong_type", detail, cells)
    return RawRow(dict(zip(header, cells, strict=False)), source)
