"""An example's tokens as readable pieces of text, for preview.py and preview_html.py."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune.records import Conversation, Example

CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)
"""Characters that would be obeyed and not seen: control codes, turns of the writing direction, spaces of no width."""
_REPLACEMENT = "\ufffd"
_WINDOW = 4
"""Tokens before a piece that are decoded with it, so that its first space is not lost."""

Kind = Literal["special", "template", "content"]


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of one token, or of the few that make up one character. `position` is the first one's index."""

    text: str
    ids: tuple[int, ...]
    position: int
    learned: bool
    kind: Kind
    """A special token; text that the template writes; or what the data says."""


def pieces_of(example: Example, tokenizer: Any, conversation: Conversation) -> list[Piece]:
    """Decode an example. Where a content is not found (a chat was shortened), all text counts as content."""
    parts = list(_parts(example.input_ids, tokenizer))
    contents = _contents(conversation, "".join(text for text, _, _ in parts))
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    pieces: list[Piece] = []
    place = 0
    for text, first, last in parts:
        kind: Kind = "content"
        if all(token in special for token in example.input_ids[first:last]):
            kind = "special"
        elif contents is not None and not any(place < end and start < place + len(text) for start, end in contents):
            kind = "template"
        ids = tuple(example.input_ids[first:last])
        pieces.append(Piece(text, ids, first, any(example.loss_mask[first:last]), kind))
        place += len(text)
    return pieces


def _parts(ids: Sequence[int], tokenizer: Any) -> Iterator[tuple[str, int, int]]:
    """Text, first token and the one behind the last, of each piece; a piece ends where a character does."""
    first = 0
    for last in range(1, len(ids) + 1):
        start = max(first - _WINDOW, 0)
        before, text = _decode(ids[start:first], tokenizer), _decode(ids[start:last], tokenizer)
        piece = text[len(before) :] if text.startswith(before) else _decode(ids[first:last], tokenizer)
        if piece.endswith(_REPLACEMENT) and last < len(ids) and last - first < _WINDOW:
            continue
        yield piece, first, last
        first = last


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False) if ids else ""


def _contents(conversation: Conversation, text: str) -> list[tuple[int, int]] | None:
    """Where the contents of a chat stand, one after the other; None where one is not found, or for plain text."""
    found: list[tuple[int, int]] = []
    cursor = 0
    for message in conversation.messages:
        thoughts = (message.reasoning_content or "").strip()
        place = text.find(thoughts, cursor) if thoughts else -1
        core = message.content.strip()
        if place >= 0 and core in text[place + len(thoughts) :]:
            found.append((place, place + len(thoughts)))
            cursor = place + len(thoughts)
        place = text.find(core, 0 if message.role == "system" else cursor)
        if place < 0:
            return None
        found.append((place, place + len(core)))
        if message.role != "system":
            cursor = place + len(core)
    return found or None
