"""Turns raw rows into conversations: one function per format, in `CONVERTERS`. Called by read.py."""

import hashlib
from collections.abc import Callable, Mapping

from finetune.config import DataConfig, DataFormat
from finetune.data.convert.cells import RowProblem, cell_text, find_column, is_null
from finetune.data.convert.chats import read_messages, read_sharegpt
from finetune.data.convert.choices import read_choices
from finetune.data.convert.detect import detect_format
from finetune.data.convert.preference_rows import refuse_preferences
from finetune.data.convert.row_content import Content, check_encoding, checked_chat, printable, texts_of
from finetune.data.convert.single_turn import read_alpaca, read_prompt_completion, read_question_answer, read_text
from finetune.data.convert.squad import read_squad
from finetune.data.convert.unit_tests import read_tests
from finetune.data.readers.raw import RawRow, rejected
from finetune.records import Conversation, Rejection

__all__ = ["CONVERTERS", "detect_format", "group_of", "item_id_of", "rejection_of", "to_conversation"]

ID_COLUMNS = ("id", "item_id", "task_id")
LONGEST_GROUP_NAME = 80
"""Characters of a group's name; a longer cell (a whole context) is named by its beginning and a digest."""

CONVERTERS: dict[DataFormat, Callable[[Mapping[str, object], DataConfig], Content]] = {
    DataFormat.messages: read_messages,
    DataFormat.sharegpt: read_sharegpt,
    DataFormat.alpaca: read_alpaca,
    DataFormat.prompt_completion: read_prompt_completion,
    DataFormat.question_answer: read_question_answer,
    DataFormat.choices: read_choices,
    DataFormat.squad: read_squad,
    DataFormat.text: read_text,
}
"""The formats that a supervised run learns from; preference and kto are read by preferences.py."""


def to_conversation(row: RawRow, data: DataConfig, format: DataFormat) -> Conversation | Rejection:
    """Turn a row into a conversation, or say why it cannot be one.

    `item_id` is the row's id column, else its source; `group` is the column `data.group`, else the column `group`.

    Raises:
        DataError: the format is preference or kto, from which a supervised run does not learn.
    """
    refuse_preferences(format, row.values, row.source)
    try:
        content = CONVERTERS[format](row.values, data)
        if content.text is None:
            content = checked_chat(content, data.system)
        tests, entry_point = read_tests(row.values)
        conversation = Conversation(
            item_id=item_id_of(row),
            source=row.source,
            messages=content.messages,
            text=content.text,
            tools=content.tools,
            options=content.options,
            group=group_of(row.values, data.group),
            tests=tests,
            entry_point=entry_point,
        )
        _check_encoding(conversation)
        return conversation
    except (RowProblem, RecursionError) as problem:
        return rejection_of(row, problem)


def rejection_of(row: RawRow, problem: RowProblem | RecursionError) -> Rejection:
    """Return the rejection of a row that raised `problem`; it keeps the beginning of the row's cells."""
    if isinstance(problem, RowProblem):
        reason, detail = problem.reason, printable(problem.detail)
    else:
        reason, detail = "wrong_type", "a cell is nested too deeply"
    try:
        return rejected(printable(row.source), reason, detail, row.values)
    except RecursionError:
        return rejected(printable(row.source), reason, detail)


def _check_encoding(conversation: Conversation) -> None:
    messages = (text for message in conversation.messages for text in texts_of(message))
    names = (conversation.item_id, conversation.source, conversation.group)
    tests = (*conversation.tests, conversation.entry_point)
    check_encoding(conversation.text, conversation.tools, *conversation.options, *messages, *names, *tests)


def item_id_of(row: RawRow) -> str:
    """The row's id column (text or a whole number), else its source."""
    column = find_column(row.values, *ID_COLUMNS)
    value = row.values[column] if column is not None else None
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()
    return row.source


def group_of(values: Mapping[str, object], column: str | None) -> str | None:
    """The group that a row's column names; without `column`, the column `group` where there is one.

    Raises:
        RowProblem: null; `column` is given and its cell is empty.
    """
    value = values.get(column or "group")
    text = "" if is_null(value) else cell_text(value).strip()
    if len(text) > LONGEST_GROUP_NAME:
        digest = hashlib.blake2b(text.encode(errors="replace"), digest_size=6).hexdigest()
        return f"{text[:LONGEST_GROUP_NAME]}…{digest}"
    if text:
        return text
    if column is None or column not in values:
        return None
    raise RowProblem("null", f"{column!r} is empty, but it names the row's group (data.group)")
