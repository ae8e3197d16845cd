"""From files to `Splits` without torch: read, format, reject, drop duplicates, draw, split. Called by jobs."""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from finetune.config import DataConfig, DataFormat
from finetune.data.cells import nearest_column
from finetune.data.check import PHRASES, Ledger
from finetune.data.formats import detect_format, to_conversation
from finetune.data.load import is_hub_id, read_rows
from finetune.data.raw import RawRow
from finetune.data.split import cut_passages, split_conversations
from finetune.data.template_text import OPTIONS, check_columns
from finetune.errors import DataError
from finetune.records import Conversation, Rejection, Splits

logger = logging.getLogger(__name__)

_ROWS_TO_DETECT = 100
_PROMPT_NAMES = ("question", "prompt", "instruction", "input", "query", "context", "text", "description")
_ANSWER_NAMES = (
    "answer",
    "completion",
    "output",
    "response",
    "final_decision",
    "label",
    "solution",
    "summary",
    "target",
)


def read_splits(data: DataConfig, *, seed: int, offline: bool = False) -> tuple[Splits, Ledger]:
    """Read `data.path` and the user's own validation and test files, and account for every row.

    Each step is deterministic by `seed`. A split without a file of its own takes its share of the training rows.

    Raises:
        DataError: a file cannot be read, its format cannot be told, a named column is missing, all or too many rows
            are unusable, or too few are left.
    """
    ledger = Ledger(max_answer_tokens_lost=data.max_answer_tokens_lost)
    paths = {"test": data.test_path, "validation": data.validation_path, "train": data.path}
    found: dict[str, list[Conversation]] = {}
    for split, path in paths.items():
        if path is not None:
            found[split] = _read_source(path, split, data, ledger, offline=offline)
    _drop_duplicates(found, ledger)
    _warn_of_shared_groups(found, data.group)
    if not found["train"]:
        raise DataError(
            f"{_short(data.path)}: no training rows are left; all of them also stand in the validation or test file"
        )
    _make_ids_unique(found)
    _draw(found, data.max_rows, seed, ledger)
    ledger.rows_used = sum(map(len, found.values()))
    train = _passages_where_needed(found["train"], data, ledger)
    splits = split_conversations(
        train,
        validation_share=data.validation_share,
        test_share=data.test_share,
        seed=seed,
        need_validation="validation" not in found,
        need_test="test" not in found,
    )
    splits = replace(splits, **{name: rows for name, rows in found.items() if name != "train"})
    _count_splits(splits, ledger)
    ledger.close()
    return splits, ledger


def _read_source(path: str, split: str, data: DataConfig, ledger: Ledger, *, offline: bool) -> list[Conversation]:
    """Read one file into conversations; checks its columns first and its rejected share last."""
    rows: list[RawRow] = []
    rejections: list[Rejection] = []
    hub_split = data.split if split == "train" else split
    for row in read_rows(path, subset=data.subset, split=hub_split, offline=offline):
        if isinstance(row, RawRow):
            rows.append(row)
        else:
            rejections.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    format = _choose_format(rows, columns, data, path) if rows else data.format
    _check_named_columns(columns, data, format, path, group_needed=split == "train")
    conversations: list[Conversation] = []
    own_data = data if data.group in columns else replace(data, group=None)
    for row in rows:
        result = to_conversation(row, own_data, format)
        if isinstance(result, Rejection):
            rejections.append(result)
        else:
            conversations.append(result)
    for rejection in rejections:
        ledger.reject(rejection)
    num_rows = len(conversations) + len(rejections)
    ledger.rows_read += num_rows
    ledger.sources[split] = {"path": path, "rows": num_rows, "rejected": len(rejections), "format": format.name}
    _check_rejected_share(path, num_rows, rejections, data.max_rejected_share)
    logger.debug("%s: %d rows of format %s, %d rejected", path, num_rows, format.name, len(rejections))
    return conversations


def _choose_format(rows: Sequence[RawRow], columns: list[str], data: DataConfig, path: str) -> DataFormat:
    """The configured format, else the mapping's, else the one that most of the first rows have."""
    if data.format is not DataFormat.auto:
        return data.format
    if data.prompt is not None and data.completion is not None:
        return DataFormat.prompt_completion
    if data.text_column is not None:
        return DataFormat.text
    votes: Counter[DataFormat] = Counter()
    for row in rows[:_ROWS_TO_DETECT]:
        try:
            format = detect_format(row.values)
        except DataError as error:
            raise DataError(f"{row.source}: {error}") from None
        if format is not None:
            votes[format] += 1
    if votes:
        return votes.most_common(1)[0][0]
    known = "|".join(format.name for format in DataFormat if format is not DataFormat.auto)
    prompt, completion = _example_columns(columns)
    raise DataError(
        f"{_short(path)}: cannot tell the format from the columns {', '.join(columns) or '(none)'}. Map them, such as "
        f"data.prompt='{{{prompt}}}' data.completion='{{{completion}}}', or name the format: data.format={known}"
    )


def _example_columns(columns: list[str]) -> tuple[str, str]:
    """Guess two columns for the example in a message; never used to read rows."""
    by_folded = {column.lower(): column for column in columns}

    def first(names: Sequence[str], fallback: str) -> str:
        whole = [by_folded[name] for name in names if name in by_folded]
        part = [column for name in names for folded, column in by_folded.items() if name in folded]
        return (whole or part or [fallback])[0]

    prompt = first(_PROMPT_NAMES, columns[0] if columns else "question")
    rest = [column for column in columns if column != prompt]
    by_folded.pop(prompt.lower(), None)
    return prompt, first(_ANSWER_NAMES, rest[0] if rest else "answer")


def _check_named_columns(
    columns: list[str], data: DataConfig, format: DataFormat, path: str, *, group_needed: bool
) -> None:
    """Check that what the configuration names has an effect and is in the file."""
    takes_templates = format in (DataFormat.prompt_completion, DataFormat.question_answer, DataFormat.choices)
    if not takes_templates and (data.prompt is not None or data.completion is not None):
        raise DataError(
            f"data.prompt and data.completion have no effect on format {format.name} ({_short(path)}). Leave them out "
            "(data.prompt=null data.completion=null), or use data.format=prompt_completion"
        )
    extra = (OPTIONS,) if format is DataFormat.choices else ()
    for option, template in (("data.prompt", data.prompt), ("data.completion", data.completion)):
        if template is not None and columns:
            check_columns(template, option, columns, _short(path), extra=extra)
    named = {"data.text_column": data.text_column if format is DataFormat.text else None}
    if group_needed:
        named["data.group"] = data.group
    for option, column in named.items():
        if column is not None and columns and column not in columns:
            raise DataError(
                f"{option}: {_short(path)} has no column {column!r}.{nearest_column(column, columns)} "
                f"Columns: {', '.join(columns)}"
            )


def _check_rejected_share(path: str, num_rows: int, rejections: list[Rejection], limit: float) -> None:
    if not rejections or (len(rejections) < num_rows and len(rejections) <= limit * num_rows):
        return
    counts = Counter(rejection.reason for rejection in rejections)
    reason, count = counts.most_common(1)[0]
    first = next(rejection for rejection in rejections if rejection.reason == reason)
    where = f"first: {first.source}: {first.detail}"
    if len(counts) == 1 and count == num_rows:
        raise DataError(f"{_short(path)}: all {num_rows} rows {PHRASES[reason]} ({where}). {_MEND}")
    reasons = ", ".join(f"{number} {PHRASES[other]}" for other, number in counts.most_common())
    if len(rejections) == num_rows:
        raise DataError(f"{_short(path)}: all {num_rows} rows are unusable: {reasons} ({where}). {_MEND}")
    raise DataError(
        f"{_short(path)}: {len(rejections)} of {num_rows} rows ({100 * len(rejections) / num_rows:.1f} %) are unusable,"
        f" more than data.max_rejected_share={limit:g} allows: {reasons} ({where}). Mend the rows or raise the limit"
    )


_MEND = "Mend the rows, or name format and columns (data.format, data.prompt, data.completion)"


def _drop_duplicates(found: dict[str, list[Conversation]], ledger: Ledger) -> None:
    """Keep the first of equal rows; of rows equal across files keep test before validation before train."""
    elsewhere: dict[bytes, str] = {}
    for split in found:
        own: dict[bytes, str] = {}
        kept: list[Conversation] = []
        for conversation in found[split]:
            key = _content_key(conversation)
            if key in elsewhere or key in own:
                kind = "across_splits" if key in elsewhere else "exact"
                ledger.duplicates[kind] += 1
                detail = f"the same as {elsewhere.get(key) or own[key]}"
                ledger.reject(Rejection(source=conversation.source, reason="exact_duplicate", detail=detail))
                continue
            own[key] = conversation.source
            kept.append(conversation)
        elsewhere |= own
        found[split] = kept


def _warn_of_shared_groups(found: dict[str, list[Conversation]], column: str | None) -> None:
    """The user's own files may share groups; nothing is removed, but the verdict is then about known groups."""
    if column is None:
        return
    train = {row.group for row in found["train"]}
    for split in ("validation", "test"):
        shared = sorted(str(row.group) for row in found.get(split, []) if row.group in train)
        if shared:
            logger.warning(
                "data.group=%s: %d rows of data.%s_path belong to groups of the training file, such as %r",
                *(column, len(shared), split, shared[0]),
            )


def _content_key(conversation: Conversation) -> bytes:
    parts = [conversation.text or "", conversation.tools or ""]
    for message in conversation.messages:
        parts += [message.role, message.content, message.tool_calls or ""]
    return hashlib.blake2b("\x1e".join(parts).encode(), digest_size=16).digest()


def _make_ids_unique(found: dict[str, list[Conversation]]) -> None:
    """Replace ids that stand twice, in one file or over all, by the rows' sources, and those by split and source."""
    for rename in ("{source}", "{split}/{source}", "{split}/{source}~{number}"):
        counts = Counter(conversation.item_id for rows in found.values() for conversation in rows)
        if max(counts.values(), default=0) < 2:
            return
        for split, rows in found.items():
            for number, row in enumerate(rows):
                if counts[row.item_id] > 1:
                    rows[number] = replace(row, item_id=rename.format(source=row.source, split=split, number=number))


def _draw(found: dict[str, list[Conversation]], max_rows: int | None, seed: int, ledger: Ledger) -> None:
    """Keep `max_rows` usable rows of each file, drawn with the seed, in their old order."""
    for split, rows in found.items():
        if max_rows is not None and len(rows) > max_rows:
            chosen = sorted(random.Random(seed).sample(range(len(rows)), max_rows))
            ledger.rows_not_drawn += len(rows) - max_rows
            found[split] = [rows[index] for index in chosen]


def _passages_where_needed(train: list[Conversation], data: DataConfig, ledger: Ledger) -> list[Conversation]:
    """Cut texts into passages where there are too few documents for every split to have one."""
    num_splits = 1 + (data.validation_path is None and data.validation_share > 0)
    num_splits += data.test_path is None and data.test_share > 0
    if len({row.cluster for row in train}) >= num_splits or any(row.text is None for row in train):
        return train
    passages = cut_passages(train)
    ledger.passages = {passage.item_id for passage in passages}
    logger.info("%d documents are too few to split; cut into %d passages", len(train), len(passages))
    return passages


def _count_splits(splits: Splits, ledger: Ledger) -> None:
    for name, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        ledger.splits[name] = len(rows)
        ledger.split_of |= dict.fromkeys((row.item_id for row in rows), name)


def _short(path: str) -> str:
    return path if is_hub_id(path) else Path(path).name
