"""Reads .parquet files and Arrow folders (`datasets.save_to_disk`) with pyarrow, batch by batch. Called by load.py."""

import importlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from finetune.data.readers.compressed import FREE_BYTES
from finetune.data.readers.raw import Limits, RawRow, SourceFile, name_bytes, row_within, too_long
from finetune.errors import DataError
from finetune.records import Rejection

_MOST_ROWS_AT_ONCE = 1000
_BYTES_AT_ONCE = 16_000_000
_ARROW_FILE = b"ARROW1"


def read_parquet(file: SourceFile) -> Iterator[RawRow | Rejection]:
    """Read a .parquet file in batches of at most about 16 MB; rows are counted from 1 in `source`.

    Raises:
        DataError: pyarrow is not installed, or the file is damaged or grows beyond `max_expansion`.
    """
    pyarrow = _pyarrow("pyarrow.parquet", file.name)
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file.path, buffer_size=1024 * 1024) as parquet:
            for group in range(parquet.num_row_groups):
                facts = parquet.metadata.row_group(group)
                num_bytes = _check_expansion(facts, file)
                if facts.num_rows and num_bytes / facts.num_rows > file.limits.max_line_bytes:
                    for row in range(number, number + facts.num_rows):
                        yield too_long(f"{file.name}:{row + 1}", "a row", num_bytes // facts.num_rows, file.limits)
                    number += facts.num_rows
                    continue
                at_once = max(1, min(_MOST_ROWS_AT_ONCE, _BYTES_AT_ONCE * facts.num_rows // max(num_bytes, 1)))
                batches = parquet.iter_batches(batch_size=at_once, row_groups=[group])
                yield from _rows(batches, file.name, number, file.limits)
                number += facts.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(file.name, "Parquet file", error) from None


def _check_expansion(facts: Any, file: SourceFile) -> int:
    """The uncompressed bytes of a row group, if they are in proportion to what is on disk."""
    columns = [facts.column(index) for index in range(facts.num_columns)]
    num_bytes = sum(column.total_uncompressed_size for column in columns)
    on_disk = max(1, sum(column.total_compressed_size for column in columns))
    if num_bytes > FREE_BYTES and num_bytes > file.limits.max_expansion * on_disk:
        raise DataError(
            f"{file.name}: {name_bytes(on_disk)} of a row group grow to {name_bytes(num_bytes)}, over "
            f"data.max_expansion={file.limits.max_expansion:g} times as many: a decompression bomb? If you trust the "
            "file, raise the limit"
        )
    return num_bytes


def _rows(batches: Iterable[Any], name: str, number: int, limits: Limits) -> Iterator[RawRow | Rejection]:
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            yield row_within(values, f"{name}:{number}", limits)


def is_arrow_folder(folder: Path) -> bool:
    """Whether `datasets` saved this folder: one data set, or several by split."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")) or (
        (folder / "dataset_info.json").is_file() and any(folder.glob("*.arrow"))
    )


def read_arrow_folder(folder: Path, *, split: str, limits: Limits) -> Iterator[RawRow | Rejection]:
    """Read the rows of a saved data set, or of the split `split` of several; rows are counted from 1 in each file.

    Raises:
        DataError: there is no such split, a file is missing, damaged or outside the folder, or pyarrow is missing.
    """
    names: dict[str, Any] = {}
    if (folder / "dataset_dict.json").is_file():
        splits = [str(name) for name in _json_object(folder / "dataset_dict.json").get("splits", [])]
        if split not in splits:
            raise DataError(
                f"{folder}: has no split {split!r}; it has {', '.join(splits)}. Name one (data.split=…), or give its "
                "own folder"
            )
        folder = folder / split
    if (folder / "state.json").is_file():
        names = _json_object(folder / "state.json")
    listed = [str(entry.get("filename", "")) for entry in names.get("_data_files") or [] if isinstance(entry, dict)]
    files = listed or sorted(path.name for path in folder.glob("*.arrow"))
    if not files:
        raise DataError(f"{folder}: the Arrow folder holds no .arrow files. Save the data set again (save_to_disk)")
    for name in files:
        if Path(name).name != name:
            raise DataError(f"{folder.name}/state.json: names {name!r}, which is no file of this folder")
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise DataError(f"{folder}: {name} is missing or a link. Save the data set again (save_to_disk)")
        yield from _read_arrow(SourceFile(path=folder / name, name=f"{folder.name}/{name}", limits=limits))


def _json_object(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8") as file:
            value = json.loads(file.read(1_000_000))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path.parent.name}/{path.name}: cannot be read ({error}). Save the data set again") from None
    return value if isinstance(value, dict) else {}


def _read_arrow(file: SourceFile) -> Iterator[RawRow | Rejection]:
    pyarrow = _pyarrow("pyarrow.ipc", file.name)
    try:
        with pyarrow.OSFile(str(file.path)) as stream:
            as_file = stream.read(len(_ARROW_FILE)) == _ARROW_FILE
            stream.seek(0)
            reader = pyarrow.ipc.open_file(stream) if as_file else pyarrow.ipc.open_stream(stream)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if as_file else reader
            yield from _rows(_slices(batches), file.name, 0, file.limits)
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(file.name, "Arrow file", error) from None


def _slices(batches: Iterable[Any]) -> Iterator[Any]:
    for batch in batches:
        at_once = max(1, min(_MOST_ROWS_AT_ONCE, _BYTES_AT_ONCE * batch.num_rows // max(batch.nbytes, 1)))
        for start in range(0, batch.num_rows, at_once):
            yield batch.slice(start, at_once)


def _pyarrow(module: str, name: str) -> Any:
    try:
        importlib.import_module(module)
        return importlib.import_module("pyarrow")
    except ImportError:
        raise DataError(f"{name}: reading it needs pyarrow. Install it: pip install pyarrow") from None


def _damaged(name: str, kind: str, error: Exception) -> DataError:
    return DataError(f"{name}: no readable {kind} ({error}). Write or download it again")
