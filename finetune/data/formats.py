"""Turns raw rows into conversations: one function per format, in `CONVERTERS`. Called by read.py."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from finetune.config import DataConfig, DataFormat
from finetune.data.cells import RowProblem, cell_text, find_column, is_null, needed_text, optional_text, type_name
from finetune.data.chats import looks_like_messages, looks_like_sharegpt, read_messages, read_sharegpt, read_tools
from finetune.data.choices import ANSWER_COLUMNS, OPTION_COLUMNS, find_answer, option_lines, read_options
from finetune.data.raw import RawRow
from finetune.data.template_text import OPTIONS, fill_template
from finetune.errors import DataError
from finetune.records import Conversation, Message, Rejection

ID_COLUMNS = ("id", "item_id", "task_id")
CONTEXT_COLUMNS = ("context", "contexts")
QUESTION_COLUMNS = ("question", "question_stem")
LONGEST_GROUP_NAME = 80
"""Characters of a group's name; a longer cell (a whole context) is named by its beginning and a digest."""


@dataclass(frozen=True, slots=True)
class _Content:
    """What a format finds in a row."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: str | None = None
    options: tuple[str, ...] = ()


def detect_format(values: Mapping[str, object]) -> DataFormat | None:
    """Tell the format from the columns of one row, or None. Capitals in column names do not matter.

    Raises:
        DataError: the row is preference data (chosen/rejected, or chats with a boolean label).
    """
    _refuse_preferences(values)

    def has(*names: str) -> bool:
        return find_column(values, *names) is not None

    chat = find_column(values, "messages", "conversations", "conversation", "prompt")
    if chat is not None and looks_like_messages(values[chat]):
        return DataFormat.messages
    if chat is not None and looks_like_sharegpt(values[chat]):
        return DataFormat.sharegpt
    if has(*QUESTION_COLUMNS) and has(*OPTION_COLUMNS) and has(*ANSWER_COLUMNS):
        return DataFormat.choices
    if has("question") and has("answer"):
        return DataFormat.question_answer
    if has("instruction") and has("output", "response"):
        return DataFormat.alpaca
    if has("prompt") and has("completion", "response"):
        return DataFormat.prompt_completion
    return DataFormat.text if has("text") else None


def _refuse_preferences(values: Mapping[str, object]) -> None:
    label = find_column(values, "label")
    chat = find_column(values, "messages", "conversations", "completion")
    if find_column(values, "chosen") is not None and find_column(values, "rejected") is not None:
        raise DataError(
            "preference data (columns chosen and rejected) is for other trainers (DPO); this version learns from right "
            "answers only. Map the columns to learn from, such as data.prompt='{prompt}' data.completion='{chosen}', "
            "or give other rows"
        )
    if label is not None and chat is not None and isinstance(values[label], bool):
        raise DataError(
            f"preference data (column {chat} with a boolean {label}, as for KTO) is for other trainers; this version "
            f"learns from right answers only. Keep the rows whose {label} is true and name the format (data.format=…), "
            "or map the columns (data.prompt, data.completion)"
        )


def to_conversation(row: RawRow, data: DataConfig, format: DataFormat) -> Conversation | Rejection:
    """Turn a row into a conversation, or say why it cannot be one.

    `item_id` is the row's id column, else its source; `group` is the column `data.group`, else the column `group`.
    """
    try:
        content = CONVERTERS[format](row.values, data)
        if content.text is None:
            content = _checked_chat(content, data.system)
        elif not content.text.strip():
            raise RowProblem("empty_answer", "the text is empty")
        _check_encoding(content)
        return Conversation(
            item_id=_item_id(row),
            source=row.source,
            messages=content.messages,
            text=content.text,
            tools=content.tools,
            options=content.options,
            group=_group(row.values, data.group),
        )
    except RowProblem as problem:
        return Rejection(source=row.source, reason=problem.reason, detail=problem.detail)


def _checked_chat(content: _Content, system: str | None) -> _Content:
    """Check the turns, drop an empty system message, and put `data.system` before a chat without one."""
    messages = [message for message in content.messages if message.role != "system" or message.content.strip()]
    if any(message.role == "system" for message in messages[1:]):
        raise RowProblem("wrong_type", "a system message stands after other turns")
    if not any(message.role == "assistant" for message in messages):
        raise RowProblem("wrong_type", "no assistant turn")
    if messages[-1].role != "assistant":
        raise RowProblem("wrong_type", f"the last turn is {messages[-1].role}, not assistant")
    for number, message in enumerate(messages, start=1):
        if message.content.strip() or message.tool_calls or message.role == "tool":
            continue
        if message.role == "assistant":
            raise RowProblem(
                "empty_answer", "the answer is empty" if number == len(messages) else f"turn {number} is empty"
            )
        raise RowProblem("null", f"turn {number} ({message.role}) is empty")
    if not any(message.role == "user" for message in messages):
        raise RowProblem("wrong_type", "no user turn")
    if system and messages[0].role != "system":
        messages.insert(0, Message(role="system", content=system))
    return _Content(messages=tuple(messages), tools=content.tools, options=content.options)


def _check_encoding(content: _Content) -> None:
    """Refuse half surrogates, which JSON escapes can write and UTF-8 cannot."""
    texts = [content.text or "", content.tools or ""]
    texts += [message.content + (message.tool_calls or "") for message in content.messages]
    try:
        for text in texts:
            text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem("encoding", f"holds half a surrogate pair (\\u{ord(error.object[error.start]):04x})") from None


def _item_id(row: RawRow) -> str:
    column = find_column(row.values, *ID_COLUMNS)
    value = row.values[column] if column is not None else None
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()
    return row.source


def _group(values: Mapping[str, object], column: str | None) -> str | None:
    value = values.get(column or "group")
    text = "" if is_null(value) else cell_text(value).strip()
    if len(text) > LONGEST_GROUP_NAME:
        return (
            f"{text[:LONGEST_GROUP_NAME]}…{hashlib.blake2b(text.encode(errors='replace'), digest_size=6).hexdigest()}"
        )
    if text:
        return text
    if column is None or column not in values:
        return None
    raise RowProblem("null", f"{column!r} is empty, but it names the row's group (data.group)")


def _chat(prompt: str, answer: str, *, system: str = "", options: tuple[str, ...] = ()) -> _Content:
    messages = [Message(role="user", content=prompt), Message(role="assistant", content=answer)]
    if system.strip():
        messages.insert(0, Message(role="system", content=system))
    return _Content(messages=tuple(messages), options=options)


def _read_messages(values: Mapping[str, object], data: DataConfig) -> _Content:
    return _Content(messages=tuple(read_messages(values)), tools=read_tools(values))


def _read_sharegpt(values: Mapping[str, object], data: DataConfig) -> _Content:
    messages = read_sharegpt(values)
    system = optional_text(values, "system")
    if system.strip() and messages and messages[0].role != "system":
        messages.insert(0, Message(role="system", content=system))
    return _Content(messages=tuple(messages), tools=read_tools(values))


def _read_alpaca(values: Mapping[str, object], data: DataConfig) -> _Content:
    instruction = needed_text(values, "instruction", what="prompt")
    context = optional_text(values, "input", *CONTEXT_COLUMNS)
    prompt = "\n\n".join(part for part in (instruction, context) if part.strip())
    answer = needed_text(values, "output", "response", what="answer")
    return _chat(prompt, answer, system=optional_text(values, "system"))


def _read_prompt_completion(values: Mapping[str, object], data: DataConfig) -> _Content:
    if data.prompt is not None and data.completion is not None:
        answer = fill_template(data.completion, "data.completion", values)
        return _chat(fill_template(data.prompt, "data.prompt", values), answer)
    prompt = needed_text(values, "prompt", what="prompt")
    return _chat(prompt, needed_text(values, "completion", "response", what="answer"))


def _read_question_answer(values: Mapping[str, object], data: DataConfig) -> _Content:
    if data.completion is not None:
        answer = fill_template(data.completion, "data.completion", values)
    else:
        answer = needed_text(values, "answer", what="answer")
    if data.prompt is not None:
        return _chat(fill_template(data.prompt, "data.prompt", values), answer)
    return _chat(_question(values), answer)


def _question(values: Mapping[str, object]) -> str:
    """The question, with the context before it and a blank line between them."""
    question = needed_text(values, *QUESTION_COLUMNS, what="question")
    if not question.strip():
        raise RowProblem("null", "the question is empty")
    return "\n\n".join(part for part in (optional_text(values, *CONTEXT_COLUMNS), question) if part.strip())


def _read_choices(values: Mapping[str, object], data: DataConfig) -> _Content:
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
        prompt = f"{_question(values)}\n{lines}"
    return _chat(prompt, right, options=tuple(options.texts))


def _read_text(values: Mapping[str, object], data: DataConfig) -> _Content:
    name = data.text_column or find_column(values, "text") or "text"
    if name not in values:
        raise RowProblem("missing_column", f"no column {name!r} for the text")
    if is_null(values[name]):
        raise RowProblem("null", f"{name!r} is null")
    if not isinstance(values[name], str):
        raise RowProblem("wrong_type", f"{name!r} is {type_name(values[name])}, not text")
    return _Content(text=cell_text(values[name]))


CONVERTERS: dict[DataFormat, Callable[[Mapping[str, object], DataConfig], _Content]] = {
    DataFormat.messages: _read_messages,
    DataFormat.sharegpt: _read_sharegpt,
    DataFormat.alpaca: _read_alpaca,
    DataFormat.prompt_completion: _read_prompt_completion,
    DataFormat.question_answer: _read_question_answer,
    DataFormat.choices: _read_choices,
    DataFormat.text: _read_text,
}
