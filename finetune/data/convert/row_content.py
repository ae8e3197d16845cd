"""What a format finds in a row, before it is checked; made by the formats' files, checked by formats.py."""

from dataclasses import dataclass, replace

from finetune.data.convert.cells import RowProblem
from finetune.records import Message


@dataclass(frozen=True, slots=True)
class Content:
    """A chat (`messages`) or plain `text`."""

    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: str | None = None
    options: tuple[str, ...] = ()


def single_turn(prompt: str, answer: str, *, system: str = "", options: tuple[str, ...] = ()) -> Content:
    """Return the chat of one prompt and one answer."""
    messages = [Message(role="user", content=prompt), Message(role="assistant", content=answer)]
    if system.strip():
        messages.insert(0, Message(role="system", content=system))
    return Content(messages=tuple(messages), options=options)


def checked_chat(content: Content, system: str | None) -> Content:
    """Check the turns, drop an empty system message, and put `system` before a chat without one.

    Raises:
        RowProblem: empty_answer, null or wrong_type.
    """
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
    return replace(content, messages=tuple(messages))


def texts_of(message: Message) -> tuple[str | None, ...]:
    """Every text of a turn that comes from the row."""
    return message.content, message.tool_calls, message.reasoning_content, message.tool_call_id, message.name


def check_encoding(*texts: str | None) -> None:
    """Refuse half surrogates, which JSON escapes can write and UTF-8 cannot.

    Raises:
        RowProblem: encoding.
    """
    try:
        for text in texts:
            (text or "").encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowProblem("encoding", f"holds half a surrogate pair (\\u{ord(error.object[error.start]):04x})") from None


def printable(text: str) -> str:
    """Write half surrogates as escapes, so that a message about them can be printed."""
    return text.encode("utf-8", "backslashreplace").decode()
