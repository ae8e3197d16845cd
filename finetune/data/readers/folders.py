"""Reads folders: of documents (one row each), or of data files (the shards of one data set). Called by load.py."""

import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetune.data.readers.documents import DOCUMENT_SUFFIXES, DocumentReader
from finetune.data.readers.raw import Limits, RawRow, SourceFile, file_kind, rejected
from finetune.errors import DataError
from finetune.records import Rejection

logger = logging.getLogger(__name__)

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

_ABOUT = re.compile(r"(readme|license|licence|notice|changelog|citation|contributing)([._-].*)?", re.IGNORECASE)
_NO_ROWS = frozenset(("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"))
_SPLIT_NAMES = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "validation"
)
_SPLIT = re.compile(rf"(?:^|[-_./])({'|'.join(_SPLIT_NAMES)})(?=[-_./0-9]|$)", re.IGNORECASE)

Read = Callable[[SourceFile], Iterator[RawRow | Rejection]]


@dataclass(slots=True)
class _Found:
    """What a folder holds, each by its path inside the folder, in order."""

    documents: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    refused: list[Rejection] = field(default_factory=list)


def read_folder(
    folder: Path, *, split: str, limits: Limits, read_data: Read, kinds: str
) -> Iterator[RawRow | Rejection]:
    """Read a folder's documents, each a row with the columns `text` and `group`, or else its data files.

    Links that point out of the folder and special files are a Rejection each. Where data files are named after splits,
    those of `split` are read. `kinds` ends the message about a folder without any.

    Raises:
        DataError: nothing in the folder can be read, or no file belongs to `split`.
    """
    found = _look_through(folder)
    if found.documents and not (found.data and all(_ABOUT.fullmatch(Path(name).name) for name in found.documents)):
        _tell_what_is_left(folder, found.data + found.others)
        yield from _read_documents(folder, found.documents, limits)
    elif found.data:
        chosen = _of_split(folder, found.data, split)
        _tell_what_is_left(folder, [name for name in found.data if name not in chosen] + found.documents + found.others)
        for name in chosen:
            yield from read_data(SourceFile(path=folder / name, name=name, limits=limits))
    elif not found.refused:
        shown = found.others
        held = f"It holds {', '.join(shown[:5])}{', …' if len(shown) > 5 else ''}" if shown else "It is empty"
        raise DataError(f"{folder}: the folder has no documents and no data files. {held}. {kinds}")
    yield from found.refused


def _look_through(folder: Path) -> _Found:
    found = _Found()
    inside = folder.resolve()
    names: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        linked = [name for name in folders if (Path(parent) / name).is_symlink()]
        names += [(Path(parent) / name).relative_to(folder).as_posix() for name in [*files, *linked] if name[0] != "."]
    for name in sorted(names, key=lambda name: Path(name).parts):
        path = folder / name
        kind = file_kind(path)
        problem = _problem(path, inside)
        is_document, is_data = kind in DOCUMENT_SUFFIXES, kind in DATA_SUFFIXES and path.name not in _NO_ROWS
        if problem and (is_document or is_data or path.is_dir()):
            found.refused.append(rejected(name, "wrong_type", problem))
        else:
            (found.documents if is_document else found.data if is_data else found.others).append(name)
    return found


def _problem(path: Path, inside: Path) -> str | None:
    """Why a file of a folder is not opened, if so."""
    try:
        target = path.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError):
        return "a link that leads nowhere" if path.is_symlink() else "cannot be found any more"
    if path.is_symlink() and not target.is_relative_to(inside):
        return (
            "a link to outside the folder, which is not followed; copy the file into the folder, or give its own path"
        )
    if path.is_symlink() and stat.S_ISDIR(mode):
        return "a link to a folder, which is not followed; its files are read where they lie"
    return None if stat.S_ISREG(mode) else f"{special_kind(mode)}, not a file"


def special_kind(mode: int) -> str:
    """What a path is that is neither a file nor a folder."""
    kinds = {
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something special")


def _read_documents(folder: Path, names: list[str], limits: Limits) -> Iterator[RawRow | Rejection]:
    with DocumentReader() as reader:
        for name in names:
            try:
                row = reader.read(SourceFile(path=folder / name, name=name, limits=limits))
            except DataError as error:
                if "finetune[documents]" in str(error):
                    raise
                row = rejected(name, "wrong_type", str(error))
            if isinstance(row, RawRow):
                row.values["group"] = name
            yield row


def _of_split(folder: Path, names: list[str], split: str) -> list[str]:
    """The files that are named after the split, if files are named after splits, else all."""
    by_split: dict[str, list[str]] = {}
    for name in names:
        found = _SPLIT.search(name)
        if found:
            by_split.setdefault(_SPLIT_NAMES[found[1].lower()], []).append(name)
    if not by_split or (len(by_split) == 1 and len(next(iter(by_split.values()))) == len(names)):
        return names
    if split not in by_split:
        raise DataError(
            f"{folder}: its files are named after the splits {', '.join(by_split)}; none is named {split!r}. Choose "
            "one (data.split=…), or give a file"
        )
    return by_split[split]


def _tell_what_is_left(folder: Path, names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        logger.info("%s: %d files are not read: %s", folder, len(names), shown)
