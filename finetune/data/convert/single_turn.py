"""Rows of one question and one answer in columns of their own, and plain text. Called by formats.py."""

from collections.abc import Mapping
from dataclasses import replace

from finetune.config import DataConfig
from finetune.data.convert.cells import (
    RowProblem,
    find_column,
    is_null,
    needed_text,
    optional_text,
    parsed_cell,
    single_text,
    type_name,
)
from finetune.data.convert.chats import COMPLETION_COLUMNS, SYSTEM_COLUMNS
from finetune.data.convert.row_content import Content, single_turn
from finetune.data.convert.template_text import fill_template
from finetune.records import Message

CONTEXT_COLUMNS = ("context", "contexts")
QUESTION_COLUMNS = ("question", "question_stem")
ANSWER_COLUMNS = ("answer", "response")
OUTPUT_COLUMNS = ("output", "response")


def read_alpaca(values: Mapping[str, object], data: DataConfig) -> Content:
    """Read `instruction`, `input` (may be absent) and `output`, with `system` and the earlier turns of `history`.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    content = single_turn(
        alpaca_prompt(values), needed_text(values, *OUTPUT_COLUMNS, what="answer"), system=_system(values)
    )
    history = _history(values)
    place = 1 if content.messages[0].role == "system" else 0
    return replace(content, messages=(*content.messages[:place], *history, *content.messages[place:]))


def alpaca_prompt(values: Mapping[str, object]) -> str:
    """The instruction, and the input behind it with a blank line between them.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    instruction = needed_text(values, "instruction", what="prompt")
    context = optional_text(values, "input", *CONTEXT_COLUMNS)
    return "\n\n".join(part for part in (instruction, context) if part.strip())


def _history(values: Mapping[str, object]) -> list[Message]:
    """Earlier turns as LLaMA-Factory has them: a list of [prompt, answer]; the answers are learnt too."""
    column = find_column(values, "history")
    pairs = parsed_cell(values[column]) if column is not None else None
    if is_null(pairs) or (isinstance(pairs, str) and not pairs.strip()):
        return []
    if not isinstance(pairs, (list, tuple)):
        raise RowProblem("wrong_type", f"{column!r} is {type_name(pairs)}, not a list of [prompt, answer]")
    turns: list[Message] = []
    for number, pair in enumerate(pairs, start=1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise RowProblem("wrong_type", f"entry {number} of {column!r} is no [prompt, answer] of two texts")
        turns += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    return turns


def read_prompt_completion(values: Mapping[str, object], data: DataConfig) -> Content:
    """Read `prompt` and `completion`, or fill the templates `data.prompt` and `data.completion`.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    if data.prompt is not None and data.completion is not None:
        answer = fill_template(data.completion, "data.completion", values)
        return single_turn(fill_template(data.prompt, "data.prompt", values), answer)
    prompt = needed_text(values, "prompt", what="prompt")
    return single_turn(prompt, needed_text(values, *COMPLETION_COLUMNS, what="answer"), system=_system(values))


def read_question_answer(values: Mapping[str, object], data: DataConfig) -> Content:
    """Read `question` and `answer`, with `context` before the question; templates replace either.

    Of a list of answers that are all right, as nq_open has them, the first that is not empty is learned.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    answers = listed_answers(values)
    if data.completion is not None:
        answer = fill_template(data.completion, "data.completion", values)
    elif answers is not None:
        answer = answers[0] if answers else ""
    else:
        answer = needed_text(values, *ANSWER_COLUMNS, what="answer")
    return single_turn(question_prompt(values, data), answer, system=_system(values))


def listed_answers(values: Mapping[str, object]) -> list[str] | None:
    """The texts of a cell that holds a list of answers, empty ones left out; None where it holds anything else."""
    column = find_column(values, *ANSWER_COLUMNS)
    answers = values[column] if column is not None else None
    if not isinstance(answers, (list, tuple)) or not all(isinstance(answer, str) for answer in answers):
        return None
    return [answer for answer in answers if answer.strip()]


def question_prompt(values: Mapping[str, object], data: DataConfig) -> str:
    """Fill `data.prompt`, or join context and question.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    if data.prompt is not None:
        return fill_template(data.prompt, "data.prompt", values)
    return question_text(values)


def question_text(values: Mapping[str, object]) -> str:
    """The question, with the context before it and a blank line between them.

    Raises:
        RowProblem: missing_column, null or wrong_type.
    """
    question = needed_text(values, *QUESTION_COLUMNS, what="question")
    if not question.strip():
        raise RowProblem("null", "the question is empty")
    return "\n\n".join(part for part in (optional_text(values, *CONTEXT_COLUMNS), question) if part.strip())


def _system(values: Mapping[str, object]) -> str:
    column = find_column(values, *SYSTEM_COLUMNS)
    return "" if column is None else single_text(values[column], column)


def read_text(values: Mapping[str, object], data: DataConfig) -> Content:
    """Read the column `data.text_column`, else `text`.

    Raises:
        RowProblem: missing_column, null, wrong_type or empty_answer.
    """
    name = data.text_column or find_column(values, "text") or "text"
    if name not in values:
        raise RowProblem("missing_column", f"no column {name!r} for the text")
    text = values[name]
    if is_null(text):
        raise RowProblem("null", f"{name!r} is null")
    if not isinstance(text, str):
        raise RowProblem("wrong_type", f"{name!r} is {type_name(text)}, not text")
    if not text.strip():
        raise RowProblem("empty_answer", "the text is empty")
    return Content(text=text)
