"""Puts a finished file or folder in its place, whole or not at all; used by the writers of export formats.

Everything is written beside its place under a hidden name, flushed to disk, and renamed. Between the old export and the
new one lie two renames at most.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.errors import ResourceError
from finetune.log import megabytes

_MARGIN_BYTES = 64_000_000
"""Room kept for tokenizer, headers and the file system's own use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedFile:
    """One file of an export."""

    name: str
    """Path below the export's folder, with forward slashes."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFiles:
    """A finished export: a file, or a folder of files."""

    path: Path
    files: tuple[ExportedFile, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files)

    def moved(self, path: Path) -> "ExportFiles":
        """Return the export at another place; a single file has that place's name."""
        if [file.name for file in self.files] == [self.path.name]:
            return ExportFiles(path=path, files=(replace(self.files[0], name=path.name),))
        return replace(self, path=path)


def check_disk(num_bytes: int, target: Path) -> None:
    """Check that a target of so many bytes fits beside what stands there now.

    Raises:
        ResourceError: it does not; both figures are named.
    """
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    needed, free = num_bytes + _MARGIN_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{target}: the merged model needs {megabytes(needed)}, the disk has {megabytes(free)} free; "
            "free some space, or set output_dir=… to another disk"
        )


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Yield the path to write to; put what was written there into the target's place, or leave the target as it was.

    Raises:
        ResourceError: the disk became full.
    """
    staged = _staged(target)
    try:
        yield staged
        _publish(staged, target)
    except BaseException as error:
        _remove(staged)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"{target}: the disk became full; free some space and export again") from error
        raise


def move(source: Path, target: Path) -> None:
    """Put a finished file or folder into another one's place."""
    _staged(target)
    _publish(source, target)


def _staged(target: Path) -> Path:
    """Clear what a killed export left, put back what it had moved away, and return the path to write to."""
    staged, previous = (target.with_name(f".{target.name}.{state}") for state in ("partial", "previous"))
    target.parent.mkdir(parents=True, exist_ok=True)
    if previous.exists() and not target.exists():
        previous.rename(target)
    for leftover in (staged, previous):
        _remove(leftover)
    return staged


def _publish(staged: Path, target: Path) -> None:
    for path in [staged, *staged.rglob("*")]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if staged.is_file():
        staged.replace(target)
        _sync_folder(target.parent)
        return
    _sync_folder(staged)
    previous = target.with_name(f".{target.name}.previous")
    if target.exists():
        target.rename(previous)
    staged.rename(target)
    _sync_folder(target.parent)
    _remove(previous)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot flush a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
