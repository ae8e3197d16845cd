"""Reads files, folders and hub data sets row by row; knows nothing of formats. Called by read.py."""

import difflib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from finetune.data.hub import read_hub
from finetune.data.raw import RawRow, check_not_utf16, decode_utf8
from finetune.data.tables import read_delimited, read_parquet
from finetune.errors import DataError
from finetune.records import Rejection

__all__ = ["FILE_SUFFIXES", "RawRow", "is_hub_id", "read_rows"]

logger = logging.getLogger(__name__)

FILE_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".md")
"""Files that can be read. A folder is read for its .txt and .md files."""

_TEXT_SUFFIXES = (".txt", ".md")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_rows(
    path: str, *, subset: str | None = None, split: str = "train", offline: bool = False
) -> Iterator[RawRow | Rejection]:
    """Read every row of a file, a folder of texts or a hub data set, in its own order.

    `subset`, `split` and `offline` concern hub data sets alone. Rows that cannot be a record come as `Rejection`.

    Raises:
        DataError: there is no such path, or the file cannot be read, is empty or is damaged. Lazily: at the first
            row, or at the row that shows it.
    """
    if is_hub_id(path):
        yield from read_hub(path, subset=subset, split=split, offline=offline)
        return
    found = Path(path).expanduser()
    if found.is_dir():
        yield from _read_folder(found)
        return
    _check_file(found, path)
    readers = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": read_delimited,
        ".tsv": read_delimited,
        ".parquet": read_parquet,
        ".txt": _read_text,
        ".md": _read_text,
    }
    num_rows = 0
    for row in readers[found.suffix.lower()](found):
        num_rows += 1
        yield row
    if num_rows == 0:
        raise DataError(f"{found.name}: holds no rows ({found}). Give a file with at least a few rows (data.path=…)")


def is_hub_id(path: str) -> bool:
    """Whether `path` names a hub data set (`owner/name`): nothing of that name, nor its folder, is here."""
    if not _HUB_ID.fullmatch(path) or path.lower().endswith(FILE_SUFFIXES):
        return False
    return not Path(path).exists() and not Path(path).parent.exists()


def _check_file(path: Path, given: str) -> None:
    if not path.exists():
        raise DataError(f"{given}: no such file or folder.{_nearest_file(path)} {_KINDS}")
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise DataError(f"{given}: cannot read {path.suffix or 'a file without an ending'}. {_KINDS}")
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        raise DataError(f"{given}: cannot be opened ({error.strerror}). Check the file's permissions") from None
    if size == 0:
        raise DataError(f"{path.name}: the file is empty (0 bytes: {path}). Give a file with rows (data.path=…)")


_KINDS = (
    f"Give a file ({' '.join(FILE_SUFFIXES)}), a folder of .txt and .md files, or a hub id owner/name (data.path=…)"
)


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


def _read_jsonl(path: Path) -> Iterator[RawRow | Rejection]:
    """One JSON object per line. A line that is not UTF-8 or no object is a Rejection, one that is not JSON an error."""
    with path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            source = f"{path.name}:{number}"
            if number == 1:
                check_not_utf16(content[:4], path)
                content = content.removeprefix(b"\xef\xbb\xbf")
            try:
                line = content.decode("utf-8").strip()
            except UnicodeDecodeError as error:
                detail = f"the line is not UTF-8 (byte 0x{content[error.start]:02x} at column {error.start + 1})"
                yield Rejection(source=source, reason="encoding", detail=detail)
                continue
            if line:
                yield _jsonl_row(line, path, number)


def _jsonl_row(line: str, path: Path, number: int) -> RawRow | Rejection:
    source = f"{path.name}:{number}"
    if number == 1 and line.startswith("["):
        raise DataError(
            f"{source}: starts a JSON list, but a .jsonl file holds one object {{…}} per line. "
            f"Name the file .json if it is one list"
        )
    value = _parse_json(line, path, first_line=number, help_text="Mend or remove that line; each holds one object {…}")
    if not isinstance(value, dict):
        return Rejection(source=source, reason="wrong_type", detail=f"a JSON {_kind(value)}, not an object {{…}}")
    return RawRow(value, source)


def _parse_json(text: str, path: Path, *, first_line: int, help_text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        if error.msg == "Extra data" and first_line == 1 and error.lineno > 1:
            help_text = "If the file holds one object per line, name it .jsonl"
        raise DataError(
            f"{path.name}:{line}: not JSON ({error.msg} at column {error.colno}). {help_text} ({path})"
        ) from None
    except (RecursionError, ValueError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]
        raise DataError(f"{path.name}:{first_line}: cannot be read as JSON ({what}). {help_text} ({path})") from None


def _read_json(path: Path) -> Iterator[RawRow | Rejection]:
    """A list of objects, an object of objects by id, or an object with one list, such as {"data": […]}."""
    text = decode_utf8(path.read_bytes(), path)
    if not text.strip():
        raise DataError(f"{path.name}: the file is empty (only white space: {path}). Give a file with rows")
    top = _parse_json(text, path, first_line=1, help_text="Mend the file at that place")
    if isinstance(top, dict):
        lists = [value for value in top.values() if isinstance(value, list)]
        if len(lists) == 1 and all(isinstance(item, dict) for item in lists[0]):
            top = lists[0]
    if isinstance(top, list):
        for index, item in enumerate(top):
            yield _json_row(item, f"{path.name}:[{index}]")
        return
    values = list(top.values()) if isinstance(top, dict) else []
    if not isinstance(top, dict) or sum(isinstance(value, dict) for value in values) * 2 < max(len(values), 1):
        keys = f" with the keys {', '.join(map(str, list(top)[:10]))}" if isinstance(top, dict) else ""
        raise DataError(
            f"{path.name}: holds one JSON {_kind(top)}{keys}; expected a list of objects [{{…}}, …], objects by id "
            f'{{"id-1": {{…}}, …}}, or {{"data": [{{…}}, …]}} ({path})'
        )
    for key, item in top.items():
        row = _json_row(item, f"{path.name}:{key}")
        if isinstance(row, RawRow) and "id" not in row.values:
            row.values["id"] = key
        yield row


def _json_row(item: object, source: str) -> RawRow | Rejection:
    if isinstance(item, dict):
        return RawRow(item, source)
    return Rejection(source=source, reason="wrong_type", detail=f"a JSON {_kind(item)}, not an object {{…}}")


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _read_text(path: Path) -> Iterator[RawRow]:
    text = _document(path.read_bytes(), path)
    if not text.strip():
        raise DataError(f"{path.name}: the file is empty (only white space: {path}). Give a file with text")
    yield RawRow({"text": text}, path.name)


def _document(content: bytes, path: Path) -> str:
    return decode_utf8(content, path).replace("\r\n", "\n").replace("\r", "\n")


def _read_folder(folder: Path) -> Iterator[RawRow | Rejection]:
    """One document per .txt or .md file; the column `group` keeps a document on one side of a split."""
    entries = sorted(entry.relative_to(folder) for entry in folder.rglob("*") if entry.is_file())
    shown = [entry for entry in entries if not any(part.startswith(".") for part in entry.parts)]
    documents = [entry for entry in shown if entry.suffix.lower() in _TEXT_SUFFIXES]
    others = [str(entry) for entry in shown if entry.suffix.lower() not in _TEXT_SUFFIXES]
    if not documents:
        held = f"It holds {', '.join(others[:5])}{', …' if len(others) > 5 else ''}" if others else "It is empty"
        raise DataError(f"{folder}: the folder has no .txt or .md files. {held}. {_KINDS}")
    if others:
        logger.info(
            "%s: %d files are neither .txt nor .md and are not read: %s", folder, len(others), ", ".join(others)
        )
    for entry in documents:
        source = entry.as_posix()
        try:
            text = _document((folder / entry).read_bytes(), folder / entry)
        except DataError as error:
            yield Rejection(source=source, reason="encoding", detail=str(error))
            continue
        yield RawRow({"text": text, "group": source}, source)
