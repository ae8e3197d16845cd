"""Ranges of characters and the tokens in them; used by render.py, encode.py and align.py."""

import bisect
from collections.abc import Sequence
from itertools import accumulate

Span = tuple[int, int]
"""A half-open range of characters: where it starts, and where it has ended."""


def mask_of(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Mark each token that shares a character with one of the spans, which are ascending and disjoint."""
    mask = [False] * len(offsets)
    starts = [start for start, _ in offsets]
    ends = text_ends(offsets)
    for start, end in spans:
        first = bisect.bisect_right(ends, start)
        last = bisect.bisect_left(starts, end)
        mask[first:last] = [True] * (last - first)
    return mask


def text_ends(offsets: Sequence[Span]) -> list[int]:
    """How far the text is written after each token; a character of several tokens counts with the last of them."""
    return list(accumulate((end for _, end in offsets), max))
