"""Finds the answers of a chat by rendering its beginnings, where the template marks none itself. Used by render.py."""

from collections.abc import Sequence

from finetune.data.rendering.contents import call_names, find_content
from finetune.data.rendering.spans import Span, common_prefix
from finetune.data.rendering.template import Template, try_write
from finetune.records import Message


def spans_by_prefix(messages: Sequence[Message], tools: str | None, template: Template, text: str) -> list[Span]:
    """Return the span of each of the assistant's turns in `text`: from its generation prompt to where it has ended.

    A turn begins where the text of the messages before it, generation prompt included, ends, and ends where the text
    of the messages up to it does. A template may write a turn otherwise at the end of a chat than in the middle (a
    thinking model drops old thoughts); such a turn is found by its opening, its content and its ending.
    """
    spans: list[Span] = []
    cursor = 0
    for number, message in enumerate(messages):
        if message.role != "assistant":
            content = find_content(message, text, template.marks, cursor) if message.role != "system" else None
            cursor = content[1] if content else cursor
            continue
        written = try_write(messages[:number], tools, template, True) if number else None
        before = written[0] if written else None
        start = _start(message, text, cursor, before, template)
        cursor = _end(messages, number, tools, text, start, before, template)
        spans.append((start, cursor))
    return spans


def _start(message: Message, text: str, cursor: int, before: str | None, template: Template) -> int:
    """`cursor` is where the content before the turn ends."""
    marks = template.marks
    if before is not None:
        whole = next((opening for opening in marks.openings if before.endswith(opening)), "")
        if text.startswith(before):
            return len(before) if whole else marks.skip_opening(text, len(before))
        for opening in marks.openings:
            place = len(before) - len(whole) + len(opening)
            if whole.startswith(opening) and text.startswith(before[:place]):
                return place
        shared = common_prefix(before, text)
        if not whole and len(shared) >= cursor:
            return max(
                (shared.rfind(token) + len(token) for token in marks.specials if token in shared), default=cursor
            )
    place = marks.find_start(text, cursor)
    if place is not None:
        return place
    content = find_content(message, text, marks, cursor)
    return content[0] if content else cursor


def _end(
    messages: Sequence[Message],
    number: int,
    tools: str | None,
    text: str,
    start: int,
    before: str | None,
    template: Template,
) -> int:
    message = messages[number]
    content = find_content(message, text, template.marks, start)
    least = content[1] if content else start
    written = try_write(messages[: number + 1], tools, template, False)
    upto = written[0] if written else ""
    if text.startswith(upto) and len(upto.rstrip()) > least:
        return len(upto)
    if before is not None and upto.startswith(before) and len(upto) > len(before):
        turn = upto[len(before) :].rstrip()
        if text.startswith(turn, start) and start + len(turn) > least:
            return start + len(turn)
    for name in call_names(message):
        place = text.find(name, least)
        least = place + len(name) if place >= 0 else least
    endings = [text.find(ending, least) for ending in template.marks.endings] if message.tool_calls else []
    return min((place for place in endings if place >= 0), default=least)
