"""Right character offsets for tokenizers that drop characters they do not know. Used by encode.py.

A BPE vocabulary without `unk` token and without byte pieces drops such characters, and its offsets then count as if
they had never been there: every later token, up to the next special one, would be placed too far left.
"""

import re
from collections.abc import Sequence
from typing import Any

from finetune.data.rendering.spans import Span


def has_gaps(offsets: Sequence[Span], length: int) -> bool:
    """Whether some characters of a text of this length belong to no token."""
    reached = 0
    for start, end in offsets:
        if start > reached:
            return True
        if end > reached:
            reached = end
    return reached < length


def realign(text: str, tokenizer: Any, *, add_special_tokens: bool) -> tuple[list[int], list[Span]] | None:
    """Tokenise a text without the characters the tokenizer drops; the offsets are those of the whole text.

    The ids are the ones of the whole text. Returns None where no character is dropped.
    """
    special = [re.escape(token) for token in {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()} if token]
    protected = [match.span() for match in re.finditer("|".join(special), text)] if special else []
    dropped = {character for character in set(text) if _is_dropped(character, tokenizer)}
    if not dropped:
        return None
    kept: list[int] = []
    place = 0
    for start, end in [*protected, (len(text), len(text))]:
        kept += [index for index in range(place, start) if text[index] not in dropped]
        kept += range(start, end)
        place = end
    encoded = tokenizer(
        "".join(text[index] for index in kept),
        add_special_tokens=add_special_tokens,
        return_offsets_mapping=True,
        verbose=False,
    )
    kept.append(len(text))
    offsets = [
        (kept[start], kept[end - 1] + 1 if end > start else kept[start]) for start, end in encoded["offset_mapping"]
    ]
    return list(encoded["input_ids"]), offsets


def _is_dropped(character: str, tokenizer: Any) -> bool:
    """Whether a character behind another one changes nothing."""
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    return tokenizer("a" + character, add_special_tokens=False)["input_ids"] == alone
