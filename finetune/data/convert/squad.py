"""SQuAD and its like: questions on a passage, answered by words of it. Called by formats.py and read.py.

Flat rows have `context`, `question` and `answers`; SQuAD's own files nest them as articles > paragraphs > questions.
Sources: Rajpurkar et al. 2016 (arXiv:1606.05250) and, for questions without an answer, 2018 (arXiv:1806.03822).
"""

from collections.abc import Iterator, Mapping

from finetune.config import DataConfig
from finetune.data.convert.cells import RowProblem, cell_text, find_column, is_null, parsed_cell, single_text, type_name
from finetune.data.convert.row_content import Content, single_turn
from finetune.data.convert.single_turn import CONTEXT_COLUMNS, question_prompt
from finetune.data.convert.template_text import fill_template
from finetune.data.readers.raw import RawRow

NO_ANSWER = "The context does not answer this question."
"""What is learnt where SQuAD 2 says that the passage holds no answer: `is_impossible` is true, or `answers` is an
object whose list `text` is empty (as the hub's copy writes it). Any other row without an answer is rejected."""


def looks_like_answers(value: object) -> bool:
    """Whether a cell holds answers as SQuAD writes them: {"text": […], …}, [{"text": …}, …], or a list of texts."""
    answers = parsed_cell(value)
    if isinstance(answers, dict):
        return "text" in answers
    if not isinstance(answers, (list, tuple)):
        return False
    return all(isinstance(answer, str) or (isinstance(answer, dict) and "text" in answer) for answer in answers)


def is_nested(values: Mapping[str, object]) -> bool:
    """Whether a row is an article of a SQuAD file: it has a list `paragraphs` of objects with `qas`."""
    paragraphs = values.get("paragraphs")
    return isinstance(paragraphs, list) and any(isinstance(item, dict) and "qas" in item for item in paragraphs)


def expand(row: RawRow) -> Iterator[RawRow]:
    """Yield a row for each question of an article, and any other row as it is.

    A row's source gets the place inside the article: `train.json:[0].paragraphs[2].qas[5]`. A paragraph or an article
    without questions stays one row, which to_conversation rejects, so that nothing disappears.
    """
    paragraphs = row.values.get("paragraphs")
    if not is_nested(row.values) or not isinstance(paragraphs, list):
        yield row
        return
    shared = {name: value for name, value in row.values.items() if name != "paragraphs"}
    for index, paragraph in enumerate(paragraphs):
        source = f"{row.source}.paragraphs[{index}]"
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(paragraph, dict) or not isinstance(questions, list) or not questions:
            yield RawRow({**shared, "paragraph": paragraph}, source)
            continue
        context = {name: value for name, value in paragraph.items() if name != "qas"}
        for number, question in enumerate(questions):
            own = question if isinstance(question, dict) else {"qas": question}
            yield RawRow({**shared, **context, **own}, f"{source}.qas[{number}]")


def read_squad(values: Mapping[str, object], data: DataConfig) -> Content:
    """Read `context`, `question` and the first of `answers`; templates replace the prompt or the answer.

    Raises:
        RowProblem: missing_column, null, wrong_type or empty_answer.
    """
    if data.prompt is None:
        _check_context(values)
    prompt = question_prompt(values, data)
    if data.completion is not None:
        return single_turn(prompt, fill_template(data.completion, "data.completion", values))
    return single_turn(prompt, _answer(values))


def _check_context(values: Mapping[str, object]) -> None:
    column = find_column(values, *CONTEXT_COLUMNS)
    if column is None:
        raise RowProblem("missing_column", "no column 'context'")
    context = values[column]
    if is_null(context) or not cell_text(context).strip():
        raise RowProblem("null", f"{column!r} is empty")
    for part in context if isinstance(context, (list, tuple)) else [context]:
        single_text(part, column)


def _answer(values: Mapping[str, object]) -> str:
    column = find_column(values, "answers")
    if column is None:
        raise RowProblem("missing_column", "no column 'answers'")
    answers = parsed_cell(values[column])
    marked = _is_impossible(values)
    texts = [] if marked and _holds_nothing(answers) else _answer_texts(answers, column)
    if marked or (isinstance(answers, dict) and not texts):
        if any(text.strip() for text in texts):
            raise RowProblem("wrong_type", f"is_impossible is true, but {column!r} gives the answer {texts[0][:60]!r}")
        return NO_ANSWER
    for text in texts:
        if text.strip():
            return text
    raise RowProblem("empty_answer", f"{column!r} gives no answer, and is_impossible is not true")


def _is_impossible(values: Mapping[str, object]) -> bool:
    column = find_column(values, "is_impossible")
    value = values[column] if column is not None else None
    if isinstance(value, bool):
        return value
    if is_null(value) or (isinstance(value, str) and value.strip().lower() in ("false", "")):
        return False
    if isinstance(value, str) and value.strip().lower() == "true":
        return True
    raise RowProblem("wrong_type", f"{column!r} is {type_name(value)}, neither true nor false")


def _holds_nothing(answers: object) -> bool:
    return is_null(answers) or (isinstance(answers, dict) and is_null(answers.get("text")))


def _answer_texts(answers: object, column: str) -> list[str]:
    found = answers.get("text") if isinstance(answers, dict) else answers
    if isinstance(answers, dict) and "text" not in answers:
        raise RowProblem("wrong_type", f"{column!r} is an object without 'text'")
    if is_null(found):
        raise RowProblem("null", f"{column!r} is null")
    if isinstance(found, str):
        return [found]
    if not isinstance(found, (list, tuple)):
        raise RowProblem("wrong_type", f"{column!r} is {type_name(found)}, not a list of answers")
    texts: list[str] = []
    for number, answer in enumerate(found, start=1):
        text = answer.get("text") if isinstance(answer, dict) else answer
        if not isinstance(text, str):
            raise RowProblem("wrong_type", f"answer {number} of {column!r} is {type_name(text)}, not text")
        texts.append(text)
    return texts
