"""Tells a row's format from its columns and cells. Called by read.py and preferences.py, which let the rows vote."""

from collections.abc import Mapping

from finetune.config import DataFormat
from finetune.data.convert.cells import find_column, is_empty
from finetune.data.convert.chats import (
    COMPLETION_COLUMNS,
    MESSAGES_COLUMNS,
    looks_like_chat,
    looks_like_messages,
    looks_like_sharegpt,
)
from finetune.data.convert.choices import ANSWER_COLUMNS as CHOICE_ANSWER_COLUMNS
from finetune.data.convert.choices import OPTION_COLUMNS, letter_columns
from finetune.data.convert.preference_rows import LABEL_COLUMNS, as_label
from finetune.data.convert.single_turn import ANSWER_COLUMNS, CONTEXT_COLUMNS, OUTPUT_COLUMNS, QUESTION_COLUMNS
from finetune.data.convert.squad import looks_like_answers


def detect_format(values: Mapping[str, object]) -> DataFormat | None:
    """Tell the format of one row, or None. Capitals in column names do not matter.

    Empty cells count as absent, since the rows of a table have the columns of all others, unless nothing else fits.
    """
    present = {name: value for name, value in values.items() if not is_empty(value)}
    return _detect(present) or _detect(values)


def _detect(values: Mapping[str, object]) -> DataFormat | None:
    def has(*names: str) -> bool:
        return find_column(values, *names) is not None

    if has("chosen") and has("rejected"):
        return DataFormat.preference
    chat = _detect_chat(values)
    if _is_rated(values, is_chat=chat is not None):
        return DataFormat.kto
    if chat is not None:
        return chat
    if has(*QUESTION_COLUMNS):
        found = _detect_question(values)
        if found is not None:
            return found
    if has("instruction") and has(*OUTPUT_COLUMNS):
        return DataFormat.alpaca
    if has("prompt") and has(*COMPLETION_COLUMNS):
        return DataFormat.prompt_completion
    return DataFormat.text if has("text") else None


def _detect_chat(values: Mapping[str, object]) -> DataFormat | None:
    for name in MESSAGES_COLUMNS:
        column = find_column(values, name)
        if column is not None and looks_like_messages(values[column]):
            return DataFormat.messages
        if column is not None and looks_like_sharegpt(values[column]):
            return DataFormat.sharegpt
    sides = [find_column(values, "prompt"), find_column(values, *COMPLETION_COLUMNS)]
    if all(side is not None for side in sides) and any(looks_like_chat(values[side]) for side in sides if side):
        return DataFormat.messages
    return None


def _is_rated(values: Mapping[str, object], *, is_chat: bool) -> bool:
    """Whether an answer bears a label true or false, as for KTO."""
    label = find_column(values, *LABEL_COLUMNS)
    if label is None or as_label(values[label]) is None:
        return False
    return is_chat or (find_column(values, "prompt") is not None and find_column(values, "completion") is not None)


def _detect_question(values: Mapping[str, object]) -> DataFormat | None:
    """Tell formats with a question apart by what answers it: one of several options, words of a passage, or text."""
    has_options = find_column(values, *OPTION_COLUMNS) is not None or bool(letter_columns(values))
    if has_options and find_column(values, *CHOICE_ANSWER_COLUMNS) is not None:
        return DataFormat.choices
    if find_column(values, "question") is None:
        return None
    if find_column(values, *ANSWER_COLUMNS) is not None:
        return DataFormat.question_answer
    answers = find_column(values, "answers")
    has_context = find_column(values, *CONTEXT_COLUMNS) is not None
    return DataFormat.squad if has_context and answers and looks_like_answers(values[answers]) else None
