"""Rows that compare or rate answers: `chosen`/`rejected` pairs (DPO) and answers with a label (KTO).

preferences.py reads files of them; a supervised run refuses them (`refuse_preferences`, called by read.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.config import DataConfig, DataFormat
from finetune.data.convert.cells import (
    RowProblem,
    find_column,
    is_empty,
    is_null,
    optional_text,
    parsed_cell,
    type_name,
)
from finetune.data.convert.chats import (
    COMPLETION_COLUMNS,
    MESSAGES_COLUMNS,
    looks_like_chat,
    read_side,
    read_turns,
    with_system_column,
)
from finetune.data.convert.row_content import Content, check_encoding, checked_chat, texts_of
from finetune.data.convert.single_turn import alpaca_prompt
from finetune.data.convert.tool_calls import read_tools
from finetune.data.convert.transcripts import looks_like_transcript, read_transcript
from finetune.errors import DataError
from finetune.records import Message

LABEL_COLUMNS = ("label", "kto_tag")
PROMPT_COLUMNS = ("prompt", "question", "query")

_LABELS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


@dataclass(frozen=True, slots=True)
class Compared:
    """What a row holds: the common turns, one or two answers to them, and for a rated answer its label."""

    prompt: tuple[Message, ...]
    answers: tuple[tuple[Message, ...], ...]
    """(chosen, rejected), or the rated answer alone."""
    tools: str | None = None
    desirable: bool | None = None


def as_label(value: object) -> bool | None:
    """Return a label as a boolean: true, false, 1, 0, or their text; None for anything else."""
    return _LABELS.get(str(value).strip().lower()) if isinstance(value, (bool, int, float, str)) else None


def read_pair(values: Mapping[str, object], data: DataConfig) -> Compared:
    """Read `chosen` and `rejected`: texts or turns behind a prompt, or two whole chats that begin alike.

    The prompt is the column `prompt` (text or turns), `conversations`, or `instruction` with `input`. Chats may also be
    transcripts such as "Human: … Assistant: …".

    Raises:
        RowProblem: missing_column, null, wrong_type, empty_answer, encoding, or all_masked where both are the same.
    """
    chosen, rejected = _answer(values, "chosen"), _answer(values, "rejected")
    if _is_whole_chat(chosen) or _is_whole_chat(rejected):
        prompt = _common_start(chosen, rejected)
        _check_prompt_column(values, prompt)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    else:
        prompt = _prompt(values)
    if chosen == rejected:
        raise RowProblem("all_masked", "'chosen' and 'rejected' are the same, so that there is nothing to prefer")
    return _checked(prompt, {"chosen": chosen, "rejected": rejected}, values, data)


def read_rated(values: Mapping[str, object], data: DataConfig) -> Compared:
    """Read a chat, or `prompt` and `completion`, with the column `label` (true: an answer to learn).

    Raises:
        RowProblem: missing_column, null, wrong_type, empty_answer or encoding.
    """
    label = find_column(values, *LABEL_COLUMNS)
    if label is None:
        raise RowProblem("missing_column", "no column 'label'")
    if is_null(values[label]):
        raise RowProblem("null", f"{label!r} is null")
    desirable = as_label(values[label])
    if desirable is None:
        raise RowProblem("wrong_type", f"{label!r} is {type_name(values[label])}, neither true nor false")
    column = find_column(values, *MESSAGES_COLUMNS)
    completion = find_column(values, *COMPLETION_COLUMNS)
    if column is not None and (completion is None or is_empty(values[completion])):
        turns = read_turns(values[column], column)
        prompt, answer = turns[:-1], turns[-1:]
    else:
        prompt, answer = _prompt(values), read_side(values, *COMPLETION_COLUMNS, role="assistant")
    return _checked(prompt, {"completion": answer}, values, data, desirable)


def _answer(values: Mapping[str, object], name: str) -> list[Message]:
    column = find_column(values, name)
    value = values[column] if column is not None else None
    if isinstance(value, str) and looks_like_transcript(value):
        return read_transcript(value)
    return read_side(values, name, role="assistant")


def _is_whole_chat(turns: Sequence[Message]) -> bool:
    return turns[0].role in ("system", "user")


def _common_start(chosen: Sequence[Message], rejected: Sequence[Message]) -> list[Message]:
    """The turns that both chats begin with, up to the answers; the last turns of equal chats are the answers."""
    longest = min(len(chosen), len(rejected)) - 1
    num_common = next((number for number in range(longest) if chosen[number] != rejected[number]), longest)
    if num_common < 1:
        raise RowProblem("wrong_type", "'chosen' and 'rejected' are whole chats that do not begin with the same turns")
    return list(chosen[:num_common])


def _check_prompt_column(values: Mapping[str, object], prompt: Sequence[Message]) -> None:
    """A prompt beside two whole chats must be one of their common turns, else one of the two is wrong."""
    column = find_column(values, "prompt")
    text = optional_text(values, "prompt")
    if looks_like_transcript(text):
        text = read_transcript(text, is_prompt=True)[-1].content
    if not text.strip() or column is None or looks_like_chat(values[column]):
        return
    if all(text.strip() != message.content.strip() for message in prompt):
        raise RowProblem("wrong_type", "'prompt' is none of the turns that 'chosen' and 'rejected' begin with")


def _prompt(values: Mapping[str, object]) -> list[Message]:
    column = find_column(values, *PROMPT_COLUMNS, *MESSAGES_COLUMNS, "instruction")
    if column is not None and column.strip().lower() == "instruction":
        return [Message(role="user", content=alpaca_prompt(values))]
    value = values[column] if column is not None else None
    if isinstance(value, str) and looks_like_transcript(value):
        return read_transcript(value, is_prompt=True)
    return read_side(values, column.strip().lower() if column else "prompt", role="user")


def _checked(
    prompt: list[Message],
    answers: dict[str, list[Message]],
    values: Mapping[str, object],
    data: DataConfig,
    desirable: bool | None = None,
) -> Compared:
    prompt = with_system_column(prompt, values)
    tools = read_tools(values)
    start: tuple[Message, ...] = ()
    found: list[tuple[Message, ...]] = []
    for name, answer in answers.items():
        if answer[0].role != "assistant":
            raise RowProblem("wrong_type", f"{name!r} begins with a turn of {answer[0].role}, not assistant")
        try:
            chat = checked_chat(Content(messages=(*prompt, *answer)), data.system).messages
        except RowProblem as problem:
            raise RowProblem(problem.reason, f"{name}: {problem.detail}") from None
        check_encoding(tools, *(text for message in chat for text in texts_of(message)))
        found.append(chat[-len(answer) :])
        start = chat[: -len(answer)]
    if not any(message.role == "user" for message in start):
        raise RowProblem("wrong_type", "no user turn before the answer")
    return Compared(prompt=start, answers=tuple(found), tools=tools, desirable=desirable)


def refuse_preferences(format: DataFormat, values: Mapping[str, object], where: str) -> None:
    """Stop a supervised run on rows that compare or rate answers; does nothing for any other format.

    `values` is a row of that format, `where` names it in the message (`pairs.jsonl:1`).

    Raises:
        DataError: names the format and how to learn from the good answers alone.
    """
    if format is DataFormat.preference:
        raise DataError(
            f"{where}: preference data (columns chosen and rejected) is for trainers that compare answers (DPO); a "
            f"supervised run learns from right answers only. {_chosen_overrides(values)}"
        )
    if format is DataFormat.kto:
        label = find_column(values, *LABEL_COLUMNS) or "label"
        raise DataError(
            f"{where}: preference data (answers with a boolean column {label}, as for KTO) is for other trainers; a "
            f"supervised run learns from right answers only. Keep the rows whose {label} is true and leave that column "
            f"out; if {label} means something else, name the format (such as data.format=prompt_completion)"
        )


def _chosen_overrides(values: Mapping[str, object]) -> str:
    """How to learn the chosen answers: a mapping where all cells are texts, else what to write into the file."""
    chosen = find_column(values, "chosen")
    prompt = find_column(values, *PROMPT_COLUMNS, "instruction")
    if chosen is not None and looks_like_transcript(values[chosen]):
        prompt = None
    if chosen is not None and prompt is not None and _is_plain(values[chosen]) and _is_plain(values[prompt]):
        template = f"{{{prompt}}}"
        context = find_column(values, "input") if prompt.lower() == "instruction" else None
        if context is not None:
            template += rf"\n\n{{{context}}}"
        return f"To learn the chosen answers: data.prompt='{template}' data.completion='{{{chosen}}}'"
    column = find_column(values, *MESSAGES_COLUMNS)
    if column is not None and looks_like_chat(values[column]) and read_ends_with_answer(values[column], column):
        return f"To learn the chats in {column} instead: data.format=messages"
    kind = "transcripts" if chosen is not None and looks_like_transcript(values[chosen]) else "lists of turns"
    return (
        'To learn the chosen answers, write each row as {"messages": [the turns of the prompt, then the chosen '
        f"answer]}} (data.format=messages); its answers are {kind}, which no mapping can join"
    )


def read_ends_with_answer(value: object, column: str) -> bool:
    """Whether a cell holds a readable chat that ends with an assistant's turn."""
    try:
        return read_turns(value, column)[-1].role == "assistant"
    except RowProblem:
        return False


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and not isinstance(parsed_cell(value), (list, dict))
