"""Shows on the terminal what of an example is learned. Called by `inspect`; preview_html.py is the same for a page."""

import itertools
from collections.abc import Iterable
from typing import Any

from finetune.data.rendering.pieces import CONTROL, Piece, pieces_of
from finetune.records import Conversation, Example

OPEN, CLOSE = "⟦", "⟧"
_GREEN, _DIM, _OFF = "\x1b[32m", "\x1b[2m", "\x1b[0m"


def preview(example: Example, tokenizer: Any, conversation: Conversation, *, colour: bool = False) -> str:
    """Write an example's tokens as text, special tokens included, with ⟦…⟧ around each part that carries loss.

    With `colour` that part is green, and what the template writes is dim. Control characters of the data are shown,
    not obeyed.
    """
    lines = [f"{example.item_id}  {_visible(conversation.source)}  {learned_share(example)}"]
    body: list[str] = []
    for is_learned, run in itertools.groupby(pieces_of(example, tokenizer, conversation), lambda piece: piece.learned):
        if is_learned:
            shown = f"{OPEN}{_text(run)}{CLOSE}"
            body.append(f"{_GREEN}{shown}{_OFF}" if colour else shown)
            continue
        for is_content, part in itertools.groupby(run, lambda piece: piece.kind == "content"):
            shown = _text(part)
            body.append(f"{_DIM}{shown}{_OFF}" if colour and not is_content else shown)
    return "\n".join([*lines, "".join(body)])


def learned_share(example: Example) -> str:
    """How many of an example's tokens carry loss, in words."""
    return f"{example.num_supervised} of {len(example.input_ids)} tokens learned ({example.num_supervised_bytes} bytes)"


def _text(pieces: Iterable[Piece]) -> str:
    return _visible("".join(piece.text for piece in pieces))


def _visible(text: str) -> str:
    return CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
