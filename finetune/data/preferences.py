"""Reads files of compared or rated answers, for trainers that learn from them; a supervised run does not call it."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

from finetune.config import DataConfig, DataFormat
from finetune.data.check import Ledger
from finetune.data.columns import vote_format
from finetune.data.convert.cells import RowProblem, nearest_column
from finetune.data.convert.preference_rows import read_pair, read_rated
from finetune.data.convert.row_content import check_encoding
from finetune.data.formats import group_of, item_id_of, rejection_of
from finetune.data.load import is_hub_id, read_rows
from finetune.data.readers.raw import RawRow
from finetune.data.split import draw
from finetune.data.tally import Tally
from finetune.errors import DataError
from finetune.records import Message, PreferencePair, RatedAnswer, Rejection

_ROWS_TO_KNOW_COLUMNS = 100
_MEND = "Mend the rows, or name the format (data.format=preference|kto)"
_FORMATS = (DataFormat.preference, DataFormat.kto)


def read_preferences(
    data: DataConfig, *, seed: int = 0, offline: bool = False
) -> tuple[list[PreferencePair] | list[RatedAnswer], Ledger]:
    """Read `data.path` as pairs (format preference) or as rated answers (format kto), and account for every row.

    The ledger counts as it does for conversations: rows in = rows used + rows rejected by reason. Exact repetitions
    are rejected; `data.max_rows` draws with the seed. Nothing is split: `ledger.splits` counts all items as train.

    Raises:
        DataError: the file cannot be read, holds rows of another format, lacks a named column, or more of its rows
            than `data.max_rejected_share` are unusable.
    """
    short = data.path if is_hub_id(data.path) else Path(data.path).name
    stream = read_rows(
        data.path,
        subset=data.subset,
        split=data.split,
        offline=offline,
        max_line_bytes=data.max_line_bytes,
        max_expansion=data.max_expansion,
    )
    head = list(itertools.islice(stream, _ROWS_TO_KNOW_COLUMNS))
    known = [row for row in head if isinstance(row, RawRow)]
    format = _choose_format(known, data, short)
    _check_options(known, data, format, short)
    ledger, tally = Ledger(), Tally()
    items = _with_unique_ids(list(_read_items(itertools.chain(head, stream), data, format, ledger, tally)))
    tally.check_share(short, data.max_rejected_share, mend=_MEND)
    if data.max_rows is not None:
        drawn = draw(len(items), data.max_rows, seed)
        ledger.rows_not_drawn += len(items) - len(drawn)
        items = [items[place] for place in drawn]
    ledger.rows_used = ledger.splits["train"] = len(items)
    counts = {reason: count for reason, count in ledger.rejected.items() if count}
    ledger.sources["train"] = {
        "path": data.path,
        "format": format.name,
        "rows": ledger.rows_read,
        "used": len(items),
        "rejected": counts,
    }
    ledger.close()
    if format is DataFormat.preference:
        return [item for item in items if isinstance(item, PreferencePair)], ledger
    return [item for item in items if isinstance(item, RatedAnswer)], ledger


def _choose_format(rows: list[RawRow], data: DataConfig, path: str) -> DataFormat:
    """The configured format, else the one that most of the first rows have."""
    vote = vote_format(rows)
    found = data.format if data.format is not DataFormat.auto else vote[0] if vote else None
    if found in _FORMATS:
        return found
    columns = ", ".join(dict.fromkeys(column for row in rows for column in row.values))
    raise DataError(
        f"{path}: no preference data (format {found.name if found else 'unknown'}, columns {columns or '(none)'}). "
        "Pairs have the columns prompt, chosen and rejected; rated answers have prompt, completion and label (true or "
        "false). Rename the columns, or name the format: data.format=preference|kto"
    )


def _check_options(rows: list[RawRow], data: DataConfig, format: DataFormat, path: str) -> None:
    """Refuse options that would have no effect, and a group column that no row has."""
    given = [name for name in ("prompt", "completion", "text_column", "sources") if getattr(data, name)]
    if given:
        raise DataError(f"data.{given[0]} has no effect on format {format.name} ({path}). Leave it out")
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    if data.group is not None and columns and data.group not in columns:
        raise DataError(
            f"data.group: {path} has no column {data.group!r}.{nearest_column(data.group, columns)} "
            f"Columns: {', '.join(columns)}"
        )


def _read_items(
    rows: Iterator[RawRow | Rejection], data: DataConfig, format: DataFormat, ledger: Ledger, tally: Tally
) -> Iterator[PreferencePair | RatedAnswer]:
    first_sources: dict[bytes, str] = {}
    for row in rows:
        ledger.rows_read += 1
        tally.num_rows += 1
        item = _to_item(row, data, format) if isinstance(row, RawRow) else row
        if isinstance(item, Rejection):
            tally.reject(item)
        else:
            digest = _digest(item)
            if digest not in first_sources:
                first_sources[digest] = item.source
                yield item
                continue
            ledger.duplicates["exact"] += 1
            tally.num_rows -= 1
            detail = f"the same as {first_sources[digest]}"
            item = Rejection(source=item.source, reason="exact_duplicate", detail=detail)
        ledger.reject(item)


def _to_item(row: RawRow, data: DataConfig, format: DataFormat) -> PreferencePair | RatedAnswer | Rejection:
    try:
        item_id, group = item_id_of(row), group_of(row.values, data.group)
        check_encoding(item_id, row.source, group)
        if format is DataFormat.preference:
            found = read_pair(row.values, data)
            chosen, other = found.answers
            return PreferencePair(
                item_id=item_id,
                source=row.source,
                prompt=found.prompt,
                chosen=chosen,
                rejected=other,
                tools=found.tools,
                group=group,
            )
        found = read_rated(row.values, data)
        return RatedAnswer(
            item_id=item_id,
            source=row.source,
            prompt=found.prompt,
            completion=found.answers[0],
            desirable=bool(found.desirable),
            tools=found.tools,
            group=group,
        )
    except (RowProblem, RecursionError) as problem:
        return rejection_of(row, problem)


def _digest(item: PreferencePair | RatedAnswer) -> bytes:
    """Sixteen bytes that are equal for items of equal content, whatever their ids and sources."""
    parts = (item.prompt, item.chosen, item.rejected) if isinstance(item, PreferencePair) else _rated_parts(item)
    return blake2b(repr((*parts, item.tools)).encode(), digest_size=16).digest()


def _rated_parts(item: RatedAnswer) -> tuple[tuple[Message, ...], ...]:
    label = Message(role="label", content=str(item.desirable))
    return item.prompt, item.completion, (label,)


def _with_unique_ids(items: list[PreferencePair | RatedAnswer]) -> list[PreferencePair | RatedAnswer]:
    """Replace ids that stand twice by the rows' sources."""
    counts = Counter(item.item_id for item in items)
    return [item if counts[item.item_id] == 1 else replace(item, item_id=item.source) for item in items]
