"""Reads files, folders and hub data sets row by row; knows nothing of formats. Called by read.py."""

import difflib
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from finetune.data.readers.columnar import is_arrow_folder, read_arrow_folder, read_parquet
from finetune.data.readers.compressed import PACKED_SUFFIXES, check_expansion
from finetune.data.readers.documents import BINARY_SUFFIXES, DOCUMENT_SUFFIXES, read_document
from finetune.data.readers.folders import DATA_SUFFIXES, Read, read_folder, special_kind
from finetune.data.readers.hub import read_hub
from finetune.data.readers.json_lines import read_jsonl
from finetune.data.readers.json_stream import read_json
from finetune.data.readers.raw import Limits, RawRow, SourceFile, file_kind
from finetune.data.readers.tables import read_delimited
from finetune.errors import DataError
from finetune.records import Rejection

__all__ = ["FILE_SUFFIXES", "RawRow", "is_hub_id", "read_rows"]

_PLAIN_SUFFIXES = (*DATA_SUFFIXES, *DOCUMENT_SUFFIXES)
_ALREADY_PACKED = (".parquet", *BINARY_SUFFIXES)

FILE_SUFFIXES = _PLAIN_SUFFIXES + tuple(
    suffix + packing for suffix in _PLAIN_SUFFIXES if suffix not in _ALREADY_PACKED for packing in PACKED_SUFFIXES
)
"""Files that can be read."""

_KINDS = (
    f"Give a file ({' '.join(_PLAIN_SUFFIXES)}; text also as .gz or .zst), a folder of documents or data files, an "
    "Arrow folder, or a hub id owner/name (data.path=…)"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DEFAULTS = Limits()


def read_rows(
    path: str,
    *,
    subset: str | None = None,
    split: str = "train",
    offline: bool = False,
    max_line_bytes: int = _DEFAULTS.max_line_bytes,
    max_expansion: float = _DEFAULTS.max_expansion,
) -> Iterator[RawRow | Rejection]:
    """Read every row of a file, a folder or a hub data set, in its own order, in memory that does not grow with it.

    `subset` and `offline` concern hub data sets alone; `split` those, Arrow folders, and folders whose files are named
    after splits. Rows that cannot be a record come as `Rejection`, those longer than `max_line_bytes` included.

    Raises:
        DataError: there is no such path, or the file as a whole cannot be read: empty, damaged, of another kind, or
            compressed and growing beyond `max_expansion`. Lazily: at the first row, or at the row that shows it.
    """
    limits = Limits(max_line_bytes=max_line_bytes, max_expansion=max_expansion)
    if is_hub_id(path):
        yield from read_hub(path, subset=subset, split=split, offline=offline, limits=limits)
        return
    found = Path(path).expanduser()
    if found.is_dir():
        if is_arrow_folder(found):
            rows = read_arrow_folder(found, split=split, limits=limits)
        else:
            rows = read_folder(found, split=split, limits=limits, read_data=_read_file, kinds=_KINDS)
        yield from _at_least_one(rows, found)
        return
    _check_path(found, path)
    yield from _at_least_one(_read_file(SourceFile(path=found, name=found.name, limits=limits)), found)


def is_hub_id(path: str) -> bool:
    """Whether `path` names a hub data set (`owner/name`): nothing of that name, nor its folder, is here."""
    if not _HUB_ID.fullmatch(path) or path.lower().endswith(FILE_SUFFIXES):
        return False
    return not Path(path).exists() and not Path(path).parent.exists()


_READERS: dict[str, Read] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_delimited,
    ".tsv": read_delimited,
    ".parquet": read_parquet,
}


def _read_file(file: SourceFile) -> Iterator[RawRow | Rejection]:
    _check_file(file)
    check_expansion(file.path, file.name, max_expansion=file.limits.max_expansion)
    return _READERS.get(file.kind, read_document)(file)


def _at_least_one(rows: Iterator[RawRow | Rejection], path: Path) -> Iterator[RawRow | Rejection]:
    row = None
    for row in rows:
        yield row
    if row is None:
        raise DataError(f"{path.name}: holds no rows ({path}). Give a file with at least a few rows (data.path=…)")


def _check_path(path: Path, given: str) -> None:
    """Refuse what is not there, and a file of a kind that is not known."""
    try:
        exists = path.exists()
    except OSError as error:
        raise DataError(f"{given[:200]}: no path that can be looked up ({error.strerror}). {_KINDS}") from None
    if not exists:
        raise DataError(f"{given}: no such file or folder.{_nearest_file(path)} {_KINDS}")
    suffix = path.suffix.lower()
    if suffix in PACKED_SUFFIXES and file_kind(path) in _ALREADY_PACKED:
        raise DataError(f"{given}: cannot read {file_kind(path)} inside {suffix}. Decompress it first")
    if not path.name.lower().endswith(FILE_SUFFIXES):
        named = (
            "a file without an ending"
            if not suffix
            else f"{file_kind(path)}{suffix}"
            if suffix in PACKED_SUFFIXES
            else suffix
        )
        raise DataError(f"{given}: cannot read {named}. {_KINDS}")


def _check_file(file: SourceFile) -> None:
    """Refuse what is no plain file, is empty or may not be opened, before anything is read."""
    try:
        facts = file.path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise DataError(f"{file.name}: is {special_kind(facts.st_mode)}, not a file. {_KINDS}")
        with file.path.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"{file.name}: cannot be opened ({error.strerror}). Check the file's permissions") from None
    if facts.st_size == 0:
        raise DataError(f"{file.name}: the file is empty (0 bytes: {file.path}). Give a file with rows (data.path=…)")


def _nearest_file(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    try:
        names = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return ""
    by_folded = {name.lower(): name for name in sorted(names)}
    nearest = difflib.get_close_matches(path.name.lower(), by_folded, n=1, cutoff=0.6)
    return f" Did you mean {str(folder / by_folded[nearest[0]])!r}?" if nearest else f" The folder {folder} has none."
