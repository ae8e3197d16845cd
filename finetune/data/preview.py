"""Shows on the terminal what of an example is learned. Called by `inspect`."""

import itertools
import re
from typing import Any

from finetune.records import Conversation, Example

OPEN, CLOSE = "⟦", "⟧"
_GREEN, _DIM, _OFF = "\x1b[32m", "\x1b[2m", "\x1b[0m"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def preview(example: Example, tokenizer: Any, conversation: Conversation, *, colour: bool = False) -> str:
    """Write an example's tokens as text, special tokens included, with ⟦…⟧ around each part that carries loss.

    With `colour` that part is green and the rest dim. Control characters of the data are shown, not obeyed.
    """
    learned = (
        f"{example.num_supervised} of {len(example.input_ids)} tokens learned ({example.num_supervised_bytes} bytes)"
    )
    lines = [f"{example.item_id}  {_visible(conversation.source)}  {learned}"]
    body: list[str] = []
    place = 0
    shown = ""
    for is_learned, run in itertools.groupby(example.loss_mask):
        place += len(list(run))
        text = _decode(example.input_ids[:place], tokenizer)
        piece, shown = _visible(text[len(_common_prefix(shown, text)) :]), text
        if is_learned:
            piece = f"{OPEN}{piece}{CLOSE}"
        body.append(f"{_GREEN if is_learned else _DIM}{piece}{_OFF}" if colour else piece)
    return "\n".join([*lines, "".join(body)])


def _decode(ids: list[int], tokenizer: Any) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _common_prefix(left: str, right: str) -> str:
    """Normally all of `left`; shorter where a character is made of tokens on both sides of a border."""
    if right.startswith(left):
        return left
    return "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False)))


def _visible(text: str) -> str:
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text)
