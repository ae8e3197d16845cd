"""Reads one source of rows, a file, folder or hub data set, into `Rows`. Called by read.py for each of them."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from finetune.config import DataConfig, DataFormat, SourceConfig
from finetune.data.check import Ledger
from finetune.data.columns import check_named_columns, choose_format
from finetune.data.convert.single_turn import listed_answers
from finetune.data.convert.squad import expand
from finetune.data.formats import to_conversation
from finetune.data.load import is_hub_id, read_rows
from finetune.data.readers.raw import RawRow
from finetune.data.rows import Rows
from finetune.data.tally import Tally
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
    tally = Tally()
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
            if format is DataFormat.question_answer and isinstance(row, RawRow) and data.completion is None:
                tally.num_alternatives += len(listed_answers(row.values) or ()) > 1
            rows.add(personal.check(result) if personal else result, number)
    ledger.rows_read += tally.num_rows
    entry |= {"rows": tally.num_rows, "rejected": dict(tally.counts)}
    if tally.num_alternatives:
        entry["rows_with_alternatives"] = tally.num_alternatives
    tally.check_share(origin.short, data.max_rejected_share, mend=_MEND)
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


def short_path(path: str) -> str:
    """Name a file without its folders; a hub id stays whole."""
    return path if is_hub_id(path) else Path(path).name
