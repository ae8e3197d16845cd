"""Renders chats through a tokenizer's template and finds the characters that carry loss. Used by encode.py.

Spans are half-open ranges of characters in the rendered text. No import of transformers before the first chat.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.spans import Span
from finetune.errors import DataError, ModelError, one_line
from finetune.records import Message

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
WAY_OUT = "Use another template: model.chat_template=plain, chatml or a corrected .jinja file"


class RenderProblem(DataError):
    """The template refuses these messages (the order of roles, a system message); tokenize.py rejects the row."""


@dataclass(frozen=True, slots=True)
class Template:
    """A tokenizer's chat template, with what is asked of it again and again."""

    tokenizer: Any
    special_tokens: tuple[str, ...]
    """Longest first."""


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A chat as text: where answers stand with their end-of-turn token, and where each message's content stands."""

    text: str
    answers: tuple[Span, ...]
    contents: tuple[Span | None, ...]
    """One per message; None where it has no content of its own."""


def template_of(tokenizer: Any) -> Template:
    """Prepare the tokenizer's template.

    Raises:
        ModelError: it has none.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "the tokenizer has no chat template. Choose one: model.chat_template=plain, chatml or a .jinja file"
        )
    specials = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    by_length = tuple(sorted((token for token in specials if token.strip()), key=lambda token: (-len(token), token)))
    return Template(tokenizer, by_length)


def render_text(
    messages: Sequence[Message], tools: str | None, template: Template, *, add_generation_prompt: bool = False
) -> str:
    """Write messages as the template does.

    Raises:
        RenderProblem: the template raises an error.
    """
    return _render(messages, tools, template, add_generation_prompt=add_generation_prompt)[0]


def render_chat(
    messages: Sequence[Message], tools: str | None, template: Template, *, last_turn_only: bool = False
) -> RenderedChat:
    """Write messages and find answers and contents; `last_turn_only` keeps the last answer alone.

    Raises:
        RenderProblem: the template raises an error.
        ModelError: the template leaves out the content of a message, or marks no answer.
    """
    text, marked = _render(messages, tools, template, add_generation_prompt=False)
    if marked is not None:
        spans = [(start, _past_special(text, end, template)) for start, end in marked]
    else:
        spans = _spans_by_prefix(messages, tools, template, text)
    contents = _locate(messages, text, spans)
    if not spans:
        raise ModelError(f"the chat template marks no answer of the assistant as generated. {WAY_OUT}")
    if last_turn_only:
        before = [
            place[1] for message, place in zip(messages, contents, strict=True) if place and message.role != "assistant"
        ]
        spans = [span for span in spans if span[0] >= max(before, default=0)] or spans[-1:]
    return RenderedChat(text, tuple(spans), tuple(contents))


def _render(
    messages: Sequence[Message], tools: str | None, template: Template, *, add_generation_prompt: bool
) -> tuple[str, list[Span] | None]:
    """The text, and the spans that {% generation %} marks, or None where the template has no such marks."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tokenizer = template.tokenizer
    tool_list = json.loads(tools) if tools else None
    chat = [_chat_entry(message) for message in messages]
    source = tokenizer.get_chat_template(None, tool_list)
    has_markers = bool(_MARKER.search(source))
    try:
        rendered, marked = render_jinja_template(
            conversations=[chat],
            tools=tool_list,
            chat_template=source,
            return_assistant_tokens_mask=has_markers,
            add_generation_prompt=add_generation_prompt,
            **tokenizer.special_tokens_map,
        )
    except Exception as error:
        raise RenderProblem(f"the chat template cannot write it ({one_line(error)})") from error
    if not has_markers:
        return rendered[0], None
    spans = [(int(start), int(end)) for start, end in marked[0]]
    return rendered[0], [span for span in spans if span[1] > span[0]]


def _chat_entry(message: Message) -> dict[str, object]:
    entry: dict[str, object] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        entry["tool_calls"] = json.loads(message.tool_calls)
    return entry


def _past_special(text: str, end: int, template: Template) -> int:
    """Move the end of an answer behind the special token that directly follows and ends the turn."""
    if any(text.endswith(token, 0, end) for token in template.special_tokens):
        return end
    return next((end + len(token) for token in template.special_tokens if text.startswith(token, end)), end)


def _spans_by_prefix(messages: Sequence[Message], tools: str | None, template: Template, text: str) -> list[Span]:
    """Find answers where the template has no markers: from the generation prompt to the end-of-turn token."""
    spans: list[Span] = []
    cursor = 0
    for number, message in enumerate(messages):
        if message.role != "assistant":
            continue
        start = _answer_start(messages, number, tools, template, text, cursor)
        content = _find_content(message, text, start)
        end = content[1] if content else start
        upto = render_text(messages[: number + 1], tools, template)
        if text.startswith(upto) and len(upto.rstrip()) > end:
            end = len(upto.rstrip())
        else:
            end = _past_special(text, end, template)
        spans.append((start, end))
        cursor = end
    return [span for span in spans if span[1] > span[0]]


def _answer_start(
    messages: Sequence[Message], number: int, tools: str | None, template: Template, text: str, cursor: int
) -> int:
    """Where the text after the generation prompt begins; else where the answer's own content does."""
    if number > 0:
        before = render_text(messages[:number], tools, template, add_generation_prompt=True)
        if text.startswith(before):
            return len(before)
    content = _find_content(messages[number], text, cursor)
    return content[0] if content else cursor


def _find_content(message: Message, text: str, start: int) -> Span | None:
    """Find a message's content from `start` on: as it is, trimmed, or (thinking models) without its thoughts."""
    for content in (message.content, message.content.strip(), message.content.split("</think>")[-1].strip()):
        place = text.find(content, start) if content else -1
        if place >= 0:
            return place, place + len(content)
    return None


def _locate(messages: Sequence[Message], text: str, spans: Sequence[Span]) -> list[Span | None]:
    """Find the contents one after the other; a system message may stand anywhere.

    Raises:
        ModelError: a content is not there. A tool's result may be written otherwise, as JSON.
    """
    places: list[Span | None] = []
    cursor = 0
    for message in messages:
        start = 0 if message.role == "system" else cursor
        span = next((span for span in spans if span[1] > cursor), None) if message.role == "assistant" else None
        if span is not None:
            start = max(start, span[0])
        place = _find_content(message, text, start)
        if place is None and message.content.strip() and message.role != "tool":
            raise ModelError(
                f"the chat template leaves out what the {message.role} says ({_beginning(message.content)!r}). "
                f"{WAY_OUT}"
            )
        places.append(place)
        if message.role != "system":
            cursor = place[1] if place else (span[1] if span else cursor)
    return places


def _beginning(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 40 else words[:39] + "…"
