"""Shortens the prompt of a chat that is too long, so that its answer fits. Used by tokenize.py."""

import bisect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from finetune.data.encode import Encoded, encode
from finetune.data.rendering.spans import Span
from finetune.records import Message

GAP = " ... "
"""Stands where the middle of a text was taken out."""
SMALLEST_PROMPT_SHARE = 0.25
"""Share of the length that prompt texts may keep, even where the answer is then cut."""

_ATTEMPTS = 4


def shorten_prompt(encoded: Encoded, tokenizer: Any, max_length: int, *, last_turn_only: bool) -> Encoded:
    """Take the middle out of the longest prompt texts until the chat fits; heads and tails of equal length stay.

    Prompt texts are all contents but the assistant's. They keep at least a quarter of `max_length` together, so the
    result may still be too long: then the answer is. Returns the same object where nothing can be taken out.
    """
    counts = _tokens_per_message(encoded)
    num_fixed = len(encoded.input_ids) - sum(counts)
    least = int(max_length * SMALLEST_PROMPT_SHARE)
    gap_tokens = len(tokenizer(GAP, add_special_tokens=False)["input_ids"]) + 1
    budget = max(max_length - num_fixed, least)
    result = encoded
    for _ in range(_ATTEMPTS):
        cap = _cap(counts, budget)
        if cap >= max(counts, default=0):
            return encoded
        messages = [
            _cut_middle(message, place, encoded, cap - gap_tokens) if count > cap else message
            for message, place, count in zip(encoded.conversation.messages, _contents(encoded), counts, strict=True)
        ]
        shorter = replace(encoded.conversation, messages=tuple(messages))
        result = encode([shorter], tokenizer, last_turn_only=last_turn_only)[0]
        excess = len(result.input_ids) - max_length
        if excess <= 0 or budget <= least:
            break
        budget = max(budget - excess, least)
    return result if len(result.input_ids) < len(encoded.input_ids) else encoded


def _contents(encoded: Encoded) -> Sequence[Span | None]:
    assert encoded.chat is not None
    return encoded.chat.contents


def _tokens_per_message(encoded: Encoded) -> list[int]:
    """Tokens of each message's content; 0 for the assistant's, which are not shortened."""
    spans = list(encoded.offsets)
    counts: list[int] = []
    for message, place in zip(encoded.conversation.messages, _contents(encoded), strict=True):
        if message.role == "assistant" or place is None:
            counts.append(0)
        else:
            first, stop = _tokens_inside(spans, place)
            counts.append(stop - first)
    return counts


def _tokens_inside(spans: Sequence[Span], place: Span) -> tuple[int, int]:
    """Numbers of the first token that lies wholly inside the place, and of the first one behind it."""
    first = bisect.bisect_left(spans, place[0], key=lambda span: span[0])
    return first, max(first, bisect.bisect_right(spans, place[1], key=lambda span: span[1]))


def _cap(counts: Sequence[int], budget: int) -> int:
    """The largest cap c with sum(min(count, c)) <= budget."""
    left = budget
    ordered = sorted(counts)
    for number, count in enumerate(ordered):
        share = left // (len(ordered) - number)
        if count > share:
            return max(share, 0)
        left -= count
    return ordered[-1] if ordered else 0


def _cut_middle(message: Message, place: Span | None, encoded: Encoded, keep_tokens: int) -> Message:
    """Keep the first and the last half of `keep_tokens` tokens of a message's content."""
    assert place is not None
    spans = list(encoded.offsets)
    first, stop = _tokens_inside(spans, place)
    inside = spans[first:stop]
    half = max(keep_tokens // 2, 0)
    head = encoded.text[place[0] : inside[half - 1][1]] if half else ""
    tail = encoded.text[inside[-half][0] : place[1]] if half else ""
    return replace(message, content=head.rstrip() + GAP + tail.lstrip())
