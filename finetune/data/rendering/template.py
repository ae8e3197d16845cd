"""A tokenizer's chat template: prepared once, and run over messages. Used by render.py, prefixes.py and encode.py.

No import of transformers before the first chat.
"""

import json
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune.data.rendering.bounds import bounded, check_source
from finetune.data.rendering.entries import chat_entries
from finetune.data.rendering.spans import Span
from finetune.data.rendering.turns import TurnMarks, learn_turn_marks
from finetune.errors import DataError, ModelError, one_line
from finetune.records import Message

WAY_OUT = "Use another template: model.chat_template=plain, chatml or a corrected .jinja file"
_MARKER = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_prepared: "weakref.WeakKeyDictionary[Any, tuple[object, Template]]" = weakref.WeakKeyDictionary()
"""The template of each tokenizer that is alive, with what it was made from."""


class RenderProblem(DataError):
    """The template cannot write these messages (the order of roles, a tool call); tokenize.py rejects the row."""


@dataclass(slots=True)
class Template:
    """A tokenizer's chat template, with what is asked of it again and again. Made by `template_of`."""

    tokenizer: Any
    special_tokens: tuple[str, ...]
    """Special and added tokens, longest first."""
    named_tokens: Mapping[str, Any]
    """What the template knows as `bos_token`, `eos_token`, …"""
    marks: TurnMarks = field(default_factory=TurnMarks)
    sources: dict[bool, tuple[str, bool]] = field(default_factory=dict)
    """Jinja text, and whether it has generation markers; without tools and with them."""

    def source(self, has_tools: bool) -> tuple[str, bool]:
        """Return the Jinja text and whether it has generation markers."""
        if has_tools not in self.sources:
            text = self.tokenizer.get_chat_template(None, [{}] if has_tools else None)
            check_source(text)
            self.sources[has_tools] = text, bool(_MARKER.search(text))
        return self.sources[has_tools]


def template_of(tokenizer: Any) -> Template:
    """Prepare the tokenizer's template, or return the one that was prepared before.

    Raises:
        ModelError: it has none.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            "the tokenizer has no chat template. Choose one: model.chat_template=plain, chatml or a .jinja file"
        )
    templates = tokenizer.chat_template
    named = dict(tokenizer.special_tokens_map)
    made_from = (dict(templates) if isinstance(templates, dict) else templates, named, len(tokenizer))
    known = _prepared.get(tokenizer)
    if known is not None and known[0] == made_from:
        return known[1]
    specials = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
    by_length = tuple(sorted((token for token in specials if token.strip()), key=lambda token: (-len(token), token)))
    template = Template(tokenizer, by_length, named)
    template.marks = learn_turn_marks(lambda messages, opened: try_write(messages, None, template, opened), by_length)
    _prepared[tokenizer] = made_from, template
    return template


def write(
    messages: Sequence[Message], tools: str | None, template: Template, *, add_generation_prompt: bool = False
) -> tuple[str, list[Span] | None]:
    """Write messages as the template does; with the spans that {% generation %} marks, None where it has no markers.

    A template that takes a call's arguments as JSON text alone gets them so, and one that refuses the ids of the calls,
    or that there are none, gets ids of nine letters and digits.

    Raises:
        RenderProblem: the template raises an error.
        ModelError: it takes too much time or memory, or is no template.
    """
    tool_list = json.loads(tools) if tools else None
    try:
        return _run(chat_entries(messages), tool_list, template, add_generation_prompt)
    except ModelError:
        raise
    except Exception as error:
        ways = ((True, False), (False, True), (True, True)) if any(message.tool_calls for message in messages) else ()
        for as_text, short_ids in ways:
            try:
                chat = chat_entries(messages, arguments_as_text=as_text, short_ids=short_ids)
                return _run(chat, tool_list, template, add_generation_prompt)
            except ModelError:
                raise
            except Exception:
                continue
        raise RenderProblem(f"the chat template cannot write it ({one_line(error)})") from error


def try_write(
    messages: Sequence[Message], tools: str | None, template: Template, add_generation_prompt: bool
) -> tuple[str, list[Span] | None] | None:
    """Like `write`, but None where the template raises an error."""
    try:
        return write(messages, tools, template, add_generation_prompt=add_generation_prompt)
    except RenderProblem:
        return None


def _run(
    chat: list[dict[str, object]], tools: Any, template: Template, add_generation_prompt: bool
) -> tuple[str, list[Span] | None]:
    from transformers.utils.chat_template_utils import render_jinja_template

    source, has_markers = template.source(tools is not None)
    with bounded():
        rendered, marked = render_jinja_template(
            conversations=[chat],
            tools=tools,
            chat_template=source,
            return_assistant_tokens_mask=has_markers,
            add_generation_prompt=add_generation_prompt,
            **template.named_tokens,
        )
    if not has_markers:
        return rendered[0], None
    return rendered[0], [(int(start), int(end)) for start, end in marked[0]]
