"""Decides a source's format from its first rows, and checks the columns that the configuration names. For origins.py
and preferences.py."""

from collections import Counter
from collections.abc import Sequence

from finetune.config import DataConfig, DataFormat
from finetune.data.convert.cells import nearest_column
from finetune.data.convert.preference_rows import refuse_preferences
from finetune.data.convert.template_text import OPTIONS, check_columns
from finetune.data.formats import detect_format
from finetune.data.readers.raw import RawRow
from finetune.errors import DataError

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


def choose_format(rows: Sequence[RawRow], columns: list[str], data: DataConfig, path: str) -> DataFormat:
    """Return the configured format, else the mapping's, else the one that most of the first rows have.

    Raises:
        DataError: none can be told (the message shows a mapping with the file's own columns), or the rows are for
            trainers that compare answers.
    """
    if data.format is not DataFormat.auto:
        return data.format
    if data.prompt is not None and data.completion is not None:
        return DataFormat.prompt_completion
    if data.text_column is not None:
        return DataFormat.text
    found = vote_format(rows)
    if found is not None:
        format, first = found
        refuse_preferences(format, first.values, first.source)
        return format
    hidden = (DataFormat.auto, DataFormat.preference, DataFormat.kto)
    known = "|".join(format.name for format in DataFormat if format not in hidden)
    prompt, completion = _example_columns(columns)
    raise DataError(
        f"{path}: cannot tell the format from the columns {', '.join(columns) or '(none)'}. Map them, such as "
        f"data.prompt='{{{prompt}}}' data.completion='{{{completion}}}', or name the format: data.format={known}"
    )


def vote_format(rows: Sequence[RawRow]) -> tuple[DataFormat, RawRow] | None:
    """The format that most of the first 100 rows have, and the first row that has it; None where no row has any."""
    votes: Counter[DataFormat] = Counter()
    first: dict[DataFormat, RawRow] = {}
    for row in rows[:_ROWS_TO_DETECT]:
        format = detect_format(row.values)
        if format is not None:
            votes[format] += 1
            first.setdefault(format, row)
    if not votes:
        return None
    format = votes.most_common(1)[0][0]
    return format, first[format]


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


def check_named_columns(
    columns: list[str],
    data: DataConfig,
    format: DataFormat,
    path: str,
    *,
    group_needed: bool,
    rows_seen: int | None = None,
) -> None:
    """Check that what the configuration names has an effect and is in the file.

    `rows_seen` is the number of first rows that `columns` were taken from, or None if they were all.

    Raises:
        DataError: an option has no effect on the format, or no row has a column of that name.
    """
    takes_templates = format in (
        DataFormat.prompt_completion,
        DataFormat.question_answer,
        DataFormat.choices,
        DataFormat.squad,
    )
    if not takes_templates and (data.prompt is not None or data.completion is not None):
        raise DataError(
            f"data.prompt and data.completion have no effect on format {format.name} ({path}). Leave them out "
            "(data.prompt=null data.completion=null), or use data.format=prompt_completion"
        )
    named_path = path if rows_seen is None else f"{path} (first {rows_seen:,} rows)"
    extra = (OPTIONS,) if format is DataFormat.choices else ()
    for option, template in (("data.prompt", data.prompt), ("data.completion", data.completion)):
        if template is not None and columns:
            check_columns(template, option, columns, named_path, extra=extra)
    named = {"data.text_column": data.text_column if format is DataFormat.text else None}
    if group_needed:
        named["data.group"] = data.group
    for option, column in named.items():
        if column is not None and columns and column not in columns:
            raise DataError(
                f"{option}: {named_path} has no column {column!r}.{nearest_column(column, columns)} "
                f"Columns: {', '.join(columns)}"
            )
