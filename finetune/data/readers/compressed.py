"""Opens plain, .gz and .zst files as bytes, and stops decompression bombs. Called through `raw.SourceFile`."""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, Protocol

from finetune.errors import DataError

PACKED_SUFFIXES = (".gz", ".zst")
"""Compressions that a text file's name may end in."""

FREE_BYTES = 64 * 1024 * 1024
"""So much may come out of any compressed file before its growth is looked at."""

_AT_ONCE = 256 * 1024
_LOOKED_AT_FIRST = 4 * FREE_BYTES


class _Decompressor(Protocol):
    def read(self, size: int, /) -> bytes: ...


def open_binary(path: Path, name: str, *, max_expansion: float) -> io.BufferedReader:
    """Open a file; what is read from a .gz or .zst file is decompressed as it comes, in bounded memory.

    Raises:
        DataError: the file cannot be opened. While reading: the compressed data is damaged or cut short, or grows by
            more than `max_expansion` after the first 64 MB.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise DataError(f"{name}: cannot be opened ({error.strerror}). Check the file's permissions") from None
    packing = path.suffix.lower()
    if packing not in PACKED_SUFFIXES:
        return file
    inner: _Decompressor = gzip.GzipFile(fileobj=file) if packing == ".gz" else _zstd(file, name)
    return io.BufferedReader(_Guarded(file, inner, name, max_expansion), _AT_ONCE)


def check_expansion(path: Path, name: str, *, max_expansion: float) -> None:
    """Refuse a bomb before its first row is read: decompress the first 256 MB for nothing.

    Raises:
        DataError: as `open_binary`.
    """
    if path.suffix.lower() not in PACKED_SUFFIXES:
        return
    with open_binary(path, name, max_expansion=max_expansion) as stream:
        block, num_bytes = bytearray(_AT_ONCE), 0
        while num_bytes < _LOOKED_AT_FIRST and (count := stream.readinto1(block)):
            num_bytes += count


def _zstd(file: io.BufferedReader, name: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise DataError(f"{name}: reading .zst needs pyarrow. Install it: pip install pyarrow") from None
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")


class _Guarded(io.RawIOBase):
    """Decompressed bytes, counted against the compressed ones that they came from."""

    def __init__(self, file: io.BufferedReader, inner: _Decompressor, name: str, max_expansion: float) -> None:
        self._file, self._inner, self._name, self._max_expansion = file, inner, name, max_expansion
        self._num_out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            content = self._inner.read(min(len(buffer), _AT_ONCE))
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(
                f"{self._name}: damaged or cut short after {self._num_out:,} decompressed bytes ({error}). "
                "Write or download it again"
            ) from None
        self._num_out += len(content)
        num_in = max(self._file.tell(), 1)
        if self._num_out > FREE_BYTES and self._num_out > self._max_expansion * num_in:
            raise DataError(
                f"{self._name}: {num_in:,} compressed bytes grew to more than {self._num_out:,}, over "
                f"data.max_expansion={self._max_expansion:g} times as many: a decompression bomb? If you trust the "
                "file, decompress it yourself or raise the limit"
            )
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
