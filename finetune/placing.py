"""Puts a finished file or folder in its place, whole or not at all: checkpoints, adapters, exports.

Everything is written beside its place under a hidden name, flushed to disk, and renamed. Between an old folder and the
new one lie two renames at most; `recover` undoes the first one where a kill came before the second.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Yield the path to write to; put what was written there into the target's place, or leave the target as it was.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    staged = recover(target)
    try:
        yield staged
        _publish(staged, target)
    except BaseException:
        _remove(staged)
        raise


def move(source: Path, target: Path) -> None:
    """Put a finished file or folder into another one's place."""
    recover(target)
    _publish(source, target)


def recover(target: Path) -> Path:
    """Clear what a killed process left, put back what it had moved away, and return the path to write to."""
    staged, previous = (target.with_name(f".{target.name}.{state}") for state in ("partial", "previous"))
    target.parent.mkdir(parents=True, exist_ok=True)
    if previous.exists() and not target.exists():
        previous.rename(target)
    for leftover in (staged, previous):
        _remove(leftover)
    return staged


def recover_all(folder: Path) -> None:
    """Call `recover` for all that was being written into this folder when a process was killed."""
    for leftover in sorted(folder.glob(".*")):
        name, _, state = leftover.name[1:].rpartition(".")
        if name and state in ("partial", "previous"):
            recover(folder / name)


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
