"""The row that every reader yields, and what readers share; imported by load.py, tables.py and hub.py."""

from dataclasses import dataclass
from pathlib import Path

from finetune.errors import DataError


@dataclass(frozen=True, slots=True)
class RawRow:
    """One record as its file holds it: cells by column name, and where it stands (`train.jsonl:12`)."""

    values: dict[str, object]
    source: str


def decode_utf8(content: bytes, path: Path) -> str:
    """Decode a whole file and drop a byte order mark.

    Raises:
        DataError: the file is not UTF-8; names byte offset and line.
    """
    check_not_utf16(content[:4], path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name}:{line}: not UTF-8 (byte 0x{content[error.start]:02x} at offset {error.start} of {path}). "
            f"Save the file as UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}"
        ) from None


def check_not_utf16(head: bytes, path: Path) -> None:
    """Refuse a file that starts with a UTF-16 or UTF-32 byte order mark.

    Raises:
        DataError: it does.
    """
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(
            f"{path.name}:1: UTF-16, not UTF-8 (byte order mark at offset 0 of {path}). "
            f"Save the file as UTF-8, for example: iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}"
        )
