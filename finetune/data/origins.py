"""Reads one source of rows, a file, folder or hub data set, into `Rows`. Called by read.py for each of them."""

import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from finetune.config import DataConfig, SourceConfig
from finetune.data.check import PHRASES, Ledger
from finetune.data.columns import check_named_columns, choose_format
from finetune.data.convert.squad import expand
from finetune.data.formats import to_conversation
from finetune.data.load import is_hub_id, read_rows
from finetune.data.readers.raw import RawRow
from finetune.data.rows import Rows
from finetune.errors import DataError
from finetune.progress import track
from finetune.records import Conversation, Rejection

logger = logging.getLogger(__name__)

_ROWS_TO_KNOW_COLUMNS, _CHARACTERS_TO_KNOW_COLUMNS = 1000, 16_000_000
"""Columns and format are decided by the first rows, which are held in memory together."""
_MEND = "Mend the rows, or name format and columns (data.format, data.prompt, data.completion)"
_INHERITED = ("subset", "split", "format", "prompt", "completion", "system", "text_column", "group")


class PersonalDataCheck(Protocol):
    """What `finetune.data.privacy` offers: counts, and for `redact` replaces, what is personal in a row."""

    def check(self, conversation: Conversation) -> Conversation: ...


@dataclass(frozen=True, slots=True)
class Origin:
    """A source of rows and how they are to be read."""

    label: str
    """Its split; `train[2]` is the second of several sources."""
    path: str
    data: DataConfig
    hub_split: str
    weight: float = 1.0

    @property
    def short(self) -> str:
        """The path as messages name it."""
        return short_path(self.path)


@dataclass(slots=True)
class _Tally:
    """What has been rejected of one source so far: counts, and the first of each reason."""

    num_rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, Rejection] = field(default_factory=dict)

    def reject(self, rejection: Rejection) -> None:
        self.counts[rejection.reason] += 1
        self.first.setdefault(rejection.reason, rejection)


def list_origins(data: DataConfig) -> list[Origin]:
    """List the sources in reading order: the user's test and validation files, then what is trained on."""
    own = {"test": data.test_path, "validation": data.validation_path}
    found = [Origin(split, path, data, split) for split, path in own.items() if path is not None]
    if not data.sources:
        return [*found, Origin("train", data.path, data, data.split)]
    for number, source in enumerate(data.sources, start=1):
        own_data = _own_options(data, source)
        found.append(Origin(f"train[{number}]", source.path, own_data, own_data.split, source.weight))
    return found


def _own_options(data: DataConfig, source: SourceConfig) -> DataConfig:
    given = {name: getattr(source, name) for name in _INHERITED if getattr(source, name) is not None}
    return replace(data, path=source.path, sources=[], **given)


def read_origin(
    origin: Origin, rows: Rows, ledger: Ledger, personal: PersonalDataCheck | None, *, offline: bool
) -> None:
    """Read a source row by row into `rows`, and account for each of its rows in `ledger`.

    Raises:
        DataError: it cannot be read, its format cannot be told, a named column is missing, or more of its rows than
            `data.max_rejected_share` are unusable.
    """
    data = origin.data
    stream = _expanded(
        read_rows(
            origin.path,
            subset=data.subset,
            split=origin.hub_split,
            offline=offline,
            max_line_bytes=data.max_line_bytes,
            max_expansion=data.max_expansion,
        )
    )
    head, is_whole = _peek(stream)
    known = [row for row in head if isinstance(row, RawRow)]
    columns = list(dict.fromkeys(column for row in known for column in row.values))
    format = choose_format(known, columns, data, origin.short) if known else data.format
    is_train = origin.label.startswith("train")
    check_named_columns(
        columns, data, format, origin.short, group_needed=is_train, rows_seen=None if is_whole else len(head)
    )
    own_data = data if data.group in columns else replace(data, group=None)
    number = len(rows.labels)
    rows.labels.append(origin.label)
    tally = _Tally()
    ledger.sources[origin.label] = entry = {"path": origin.path, "format": format.name}
    label = f"{origin.short}: reading"
    for row in track(itertools.chain(head, stream), label, total=len(head) if is_whole else None, unit="rows"):
        tally.num_rows += 1
        result = to_conversation(row, own_data, format) if isinstance(row, RawRow) else row
        if isinstance(result, Rejection):
            if not ledger.keep_contents:
                result = replace(result, detail=f"not shown (data.pii={data.pii})", content="")
            tally.reject(result)
            ledger.reject(result)
        else:
            rows.add(personal.check(result) if personal else result, number)
    ledger.rows_read += tally.num_rows
    entry |= {"rows": tally.num_rows, "rejected": dict(tally.counts)}
    _check_rejected_share(origin.short, tally, data.max_rejected_share)
    logger.debug("%s: %d rows of format %s, %s rejected", origin.path, tally.num_rows, format.name, tally.counts)


def _expanded(stream: Iterable[RawRow | Rejection]) -> Iterator[RawRow | Rejection]:
    """Give each question of a nested SQuAD article a row of its own."""
    for row in stream:
        if isinstance(row, RawRow):
            yield from expand(row)
        else:
            yield row


def _peek(stream: Iterator[RawRow | Rejection]) -> tuple[list[RawRow | Rejection], bool]:
    """Take the first rows from the stream; the second result tells whether these are all."""
    head: list[RawRow | Rejection] = []
    num_characters = 0
    for row in stream:
        head.append(row)
        if isinstance(row, RawRow):
            num_characters += sum(len(value) for value in row.values.values() if isinstance(value, str))
        if len(head) >= _ROWS_TO_KNOW_COLUMNS or num_characters > _CHARACTERS_TO_KNOW_COLUMNS:
            return head, False
    return head, True


def _check_rejected_share(path: str, tally: _Tally, limit: float) -> None:
    num_rejected = tally.counts.total()
    if not num_rejected or (num_rejected < tally.num_rows and num_rejected <= limit * tally.num_rows):
        return
    reason, count = tally.counts.most_common(1)[0]
    first = tally.first[reason]
    where = f"first: {first.source}: {first.detail}"
    if len(tally.counts) == 1 and count == tally.num_rows:
        raise DataError(f"{path}: all {tally.num_rows} rows {PHRASES[reason]} ({where}). {_MEND}")
    reasons = ", ".join(f"{number} {PHRASES[other]}" for other, number in tally.counts.most_common())
    if num_rejected == tally.num_rows:
        raise DataError(f"{path}: all {tally.num_rows} rows are unusable: {reasons} ({where}). {_MEND}")
    raise DataError(
        f"{path}: {num_rejected} of {tally.num_rows} rows ({100 * num_rejected / tally.num_rows:.1f} %) are unusable,"
        f" more than data.max_rejected_share={limit:g} allows: {reasons} ({where}). Mend the rows or raise the limit"
    )


def short_path(path: str) -> str:
    """Name a file without its folders; a hub id stays whole."""
    return path if is_hub_id(path) else Path(path).name
