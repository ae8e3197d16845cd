"""Readers of tables: .csv and .tsv with the standard library, .parquet with pyarrow. Called by load.py."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from finetune.data.raw import RawRow, decode_utf8
from finetune.errors import DataError
from finetune.records import Rejection

_LARGEST_CELL_CHARACTERS = 2**31 - 1
_ROWS_AT_ONCE = 1000


def read_delimited(path: Path) -> Iterator[RawRow | Rejection]:
    """Read a .csv (commas) or .tsv (tabs) file whose first record names the columns.

    `source` names the physical line on which a record starts, as an editor shows it.

    Raises:
        DataError: the file is not UTF-8, its header is missing or names a column twice, or its quoting is broken.
    """
    csv.field_size_limit(_LARGEST_CELL_CHARACTERS)
    text = decode_utf8(path.read_bytes(), path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path.name}:{line}: the record that starts here is no {path.suffix.lower()[1:].upper()} ({error}). "
                f'Quote cells with "…" and write a quote inside them as "" ({path})'
            ) from None
        if cells is None:
            break
        if not cells:
            continue
        if header is None:
            header = cells
            _check_header(header, path, line)
            continue
        yield _row(cells, header, f"{path.name}:{line}")


def _check_header(header: list[str], path: Path, line: int) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"{path.name}:{line}: the header names {twice[0]!r} more than once. Give each column its own name"
        )
    if not any(name.strip() for name in header):
        raise DataError(f"{path.name}:{line}: the header is empty. The first line must name the columns ({path})")


def _row(cells: list[str], header: list[str], source: str) -> RawRow | Rejection:
    if len(cells) > len(header):
        detail = f"{len(cells)} cells, but the header names {len(header)} columns (an unquoted delimiter?)"
        return Rejection(source=source, reason="wrong_type", detail=detail)
    return RawRow(dict(zip(header, cells, strict=False)), source)


def read_parquet(path: Path) -> Iterator[RawRow]:
    """Read a .parquet file in batches; rows are counted from 1 in `source`.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path.name}: reading .parquet needs pyarrow. Install it: pip install pyarrow") from None
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=_ROWS_AT_ONCE):
            for values in batch.to_pylist():
                number += 1
                yield RawRow(values, f"{path.name}:{number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{path.name}: no readable Parquet file ({error}). Write or download it again ({path})"
        ) from None
