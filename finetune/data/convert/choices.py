"""Multiple choice: reads options and answer in the ways that data sets write them. Called by formats.py."""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass

from finetune.config import DataConfig
from finetune.data.convert.cells import (
    RowProblem,
    cell_text,
    find_column,
    is_null,
    list_in_string,
    parsed_cell,
    type_name,
)
from finetune.data.convert.row_content import Content, single_turn
from finetune.data.convert.single_turn import question_text
from finetune.data.convert.template_text import OPTIONS, fill_template

OPTION_COLUMNS = ("options", "choices")
ANSWER_COLUMNS = ("answer", "answerkey", "answer_key", "answer_idx")
LETTER_COLUMNS = ("{}", "option_{}", "option {}", "option{}")
"""Names of columns that hold one option each, with the letters a, b, c, … in them."""

_LETTERED_LINE = re.compile(r"\s*\(?([A-Z]|[0-9]{1,2})[.):]\s+(\S.*)")
_LETTER = re.compile(r"\(?([A-Za-z]|[0-9]{1,2})[.):]?")


@dataclass(frozen=True, slots=True)
class Options:
    """The candidate answers of a row."""

    texts: list[str]
    labels: list[str]
    """What the data set calls them: A, B, …, or labels of its own."""
    own_labels: bool = False
    """Whether the labels stand in the row."""
    numbers: bool = False
    """Whether the options are JSON numbers, so that a number answers by value, not by index."""


def read_options(values: Mapping[str, object]) -> Options:
    """Return a row's options.

    Options are a list, lines such as "A. text", a list written as a string, {"label": […], "text": […]}, or
    {"A": text, …}; or every option has a column of its own (`A`, `B`, … or `option_a`, `option_b`, …).

    Raises:
        RowProblem: missing_column, null, or wrong_type (fewer than two options, or none of these forms).
    """
    column = find_column(values, *OPTION_COLUMNS)
    columns = letter_columns(values) if column is None else []
    if column is not None:
        value = values[column]
    elif columns:
        column = f"{columns[0]} … {columns[-1]}"
        value = _lettered_object(values, columns)
    else:
        raise RowProblem("missing_column", "no column 'options' or 'choices'")
    if is_null(value):
        raise RowProblem("null", f"{column!r} is null")
    labels: list[str] | None = None
    numbers = False
    value = parsed_cell(value) if isinstance(value, str) and value.lstrip().startswith("{") else value
    if isinstance(value, str):
        labels, texts = _options_in_string(value)
    elif isinstance(value, dict):
        labels, texts = _options_in_object(value, column)
    elif isinstance(value, (list, tuple)):
        labels, texts = _without_letters([cell_text(item) for item in value])
        numbers = all(isinstance(item, (int, float)) for item in value)
    else:
        raise RowProblem("wrong_type", f"{column!r} is {type_name(value)}, not a list of options")
    texts = [text.strip() for text in texts]
    if len(texts) < 2 or not all(texts):
        raise RowProblem("wrong_type", f"{column!r} gives {len(texts)} options, some of them empty or too few")
    return Options(texts, labels or _letters(len(texts)), own_labels=labels is not None, numbers=numbers)


def letter_columns(values: Mapping[str, object]) -> list[str]:
    """Return the columns that hold one option each, in the order of their letters; at least two, else none."""
    for pattern in LETTER_COLUMNS:
        columns: list[str] = []
        for letter in string.ascii_lowercase:
            column = find_column(values, pattern.format(letter))
            if column is None:
                break
            columns.append(column)
        if len(columns) >= 2:
            return columns
    return []


def _lettered_object(values: Mapping[str, object], columns: list[str]) -> dict[str, object]:
    """Options by letter; columns that are empty at the end (a question with fewer options) are left out."""
    kept = list(columns)
    while kept and not cell_text(values[kept[-1]]).strip():
        kept.pop()
    return {letter: values[column] for letter, column in zip(string.ascii_uppercase, kept, strict=False)}


def _letters(count: int) -> list[str]:
    return [string.ascii_uppercase[number] if number < 26 else str(number + 1) for number in range(count)]


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(1, count + 1)]


def _options_in_string(text: str) -> tuple[list[str] | None, list[str]]:
    items = list_in_string(text)
    if items is not None:
        return _without_letters(items)
    return _without_letters([line for line in text.splitlines() if line.strip()])


def _without_letters(lines: list[str]) -> tuple[list[str] | None, list[str]]:
    """Take "A. ", "B. ", … off the options where every one has its letter, in order."""
    found = [match for line in lines if (match := _LETTERED_LINE.fullmatch(line))]
    labels = [match.group(1) for match in found]
    if not lines or len(found) < len(lines) or labels not in (_letters(len(lines)), _numbers(len(lines))):
        return None, lines
    return labels, [match.group(2) for match in found]


def _options_in_object(value: Mapping[str, object], column: str) -> tuple[list[str] | None, list[str]]:
    labels, texts = value.get("label"), value.get("text")
    if isinstance(labels, list) and isinstance(texts, list) and len(labels) == len(texts):
        return [cell_text(label).strip() for label in labels], [cell_text(text) for text in texts]
    if value and all(_LETTER.fullmatch(str(key)) for key in value):
        kept = {str(key): cell_text(text) for key, text in value.items() if not is_null(text)}
        return list(kept), list(kept.values())
    raise RowProblem("wrong_type", f"{column!r} is an object with the keys {', '.join(map(str, value))}, not options")


def find_answer(answer: object, options: Options) -> int:
    """Return the index of the right option; `answer` is its text, "B. text", its letter, or its index from 0.

    A number is an index, unless the row's own labels or all its options are numbers.

    Raises:
        RowProblem: empty_answer, or wrong_type where no option is meant.
    """
    labels, texts = options.labels, options.texts
    text = cell_text(answer).strip()
    if not text:
        raise RowProblem("empty_answer", "the answer is empty")
    if isinstance(answer, int) and not isinstance(answer, bool) and not options.numbers:
        if options.own_labels and text in labels:
            return labels.index(text)
        if 0 <= answer < len(texts):
            return answer
        raise RowProblem("wrong_type", f"the answer {answer} is no index of the {len(texts)} options, counted from 0")
    if text in texts:
        return texts.index(text)
    lettered = _LETTERED_LINE.fullmatch(text)
    if lettered and lettered.group(2).strip() in texts:
        return texts.index(lettered.group(2).strip())
    index = _by_letter(text, options)
    if index is not None:
        return index
    folded_texts = [option.casefold() for option in texts]
    if folded_texts.count(text.casefold()) == 1:
        return folded_texts.index(text.casefold())
    raise RowProblem("wrong_type", f"the answer {text[:60]!r} is none of the {len(texts)} options")


def _by_letter(text: str, options: Options) -> int | None:
    """The option that a label ("B", "(b)", "3.") or a written index means."""
    letter = _LETTER.fullmatch(text)
    if letter is None:
        return None
    mark = letter.group(1).upper()
    folded = [label.upper() for label in options.labels]
    if mark in folded:
        return folded.index(mark)
    return int(mark) if mark.isdigit() and int(mark) < len(options.texts) else None


def option_lines(texts: list[str]) -> str:
    """Write the options one per line as "A. text"."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(_letters(len(texts)), texts, strict=True))


def read_choices(values: Mapping[str, object], data: DataConfig) -> Content:
    """Read question, options and answer; the chat ends with the right option's text.

    Raises:
        RowProblem: missing_column, null, wrong_type or empty_answer.
    """
    options = read_options(values)
    if data.completion is not None:
        answer: object = fill_template(data.completion, "data.completion", values)
    else:
        column = find_column(values, *ANSWER_COLUMNS)
        if column is None:
            raise RowProblem("missing_column", "no column 'answer'")
        answer = values[column]
        if is_null(answer):
            raise RowProblem("null", f"{column!r} is null")
    right = options.texts[find_answer(answer, options)]
    lines = option_lines(options.texts)
    if data.prompt is not None:
        prompt = fill_template(data.prompt, "data.prompt", values, {OPTIONS: lines})
    else:
        prompt = f"{question_text(values)}\n{lines}"
    return single_turn(prompt, right, options=tuple(options.texts))
