"""Renders chats through a tokenizer's template and finds the characters that carry loss. Used by encode.py.

Answers come from the template's {% generation %} markers where it has them, else from rendered prefixes; both give the
same spans. Spans are half-open ranges of characters in the rendered text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from finetune.data.rendering.contents import check_tools, locate
from finetune.data.rendering.prefixes import spans_by_prefix
from finetune.data.rendering.spans import Span
from finetune.data.rendering.template import WAY_OUT, RenderProblem, Template, template_of, write
from finetune.data.rendering.turns import merge_touching
from finetune.errors import ModelError
from finetune.records import Message

__all__ = ["WAY_OUT", "RenderProblem", "RenderedChat", "Template", "render_chat", "render_text", "template_of"]


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A chat as text: where answers stand with their end-of-turn token, and where each message's content stands."""

    text: str
    answers: tuple[Span, ...]
    contents: tuple[Span | None, ...]
    """One per message; None where it has no content of its own."""
    thoughts: tuple[Span | None, ...]
    """One per message; None where it has no thoughts, or the template drops them."""
    encoded: tuple[list[int], list[Span]] | None = None
    """Token ids and offsets, where the row writes control tokens, which must not be found in `text`."""


def render_text(
    messages: Sequence[Message], tools: str | None, template: Template, *, add_generation_prompt: bool = False
) -> str:
    """Write messages as the template does.

    Raises:
        RenderProblem: the template raises an error.
    """
    return write(messages, tools, template, add_generation_prompt=add_generation_prompt)[0]


def render_chat(
    messages: Sequence[Message], tools: str | None, template: Template, *, last_turn_only: bool = False
) -> RenderedChat:
    """Write messages and find answers and contents; `last_turn_only` keeps the last answer alone.

    An answer begins where the generation prompt has ended, and ends with its end-of-turn token: what the template
    writes before and behind, and white space at the very end, is given and not learned, even if it is marked.

    Raises:
        RenderProblem: the template raises an error, or leaves out tools, calls or their results.
        ModelError: the template leaves out the content of a message, or marks no answer.
    """
    text, marked = write(messages, tools, template)
    if marked is not None:
        joined = merge_touching(marked)
        found = [(template.marks.start(text, start), end) for start, end in joined]
    else:
        found = spans_by_prefix(messages, tools, template, text)
    if tools:
        check_tools(tools, text)
    places = locate(messages, text, found, template.marks)
    spans = [(start, template.marks.end(text, end, _floor(places.contents, start, end))) for start, end in found]
    spans = [span for span in spans if span[1] > span[0]]
    if not spans:
        raise ModelError(f"the chat template marks no answer of the assistant as generated. {WAY_OUT}")
    if last_turn_only:
        spans = [span for span in spans if span[0] >= places.before_last_answer] or spans[-1:]
    return RenderedChat(text, tuple(spans), places.contents, places.thoughts)


def _floor(contents: Sequence[Span | None], start: int, end: int) -> int:
    """Where the last content in an answer ends; its start if there is none."""
    return max((place[1] for place in contents if place and start <= place[0] and place[1] <= end), default=start)
