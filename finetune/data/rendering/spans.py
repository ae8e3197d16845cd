"""Ranges of characters and the tokens in them; used by render.py, encode.py and align.py."""

import bisect
from collections.abc import Sequence
from itertools import accumulate
from operator import itemgetter

Span = tuple[int, int]
"""A half-open range of characters: where it starts, and where it has ended."""

_start, _end = itemgetter(0), itemgetter(1)


def mask_of(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Mark each token that shares a character with one of the spans.

    The spans are ascending and disjoint; the starts of the tokens ascend, and so do their ends.
    """
    mask = [False] * len(offsets)
    for start, end in spans:
        first = bisect.bisect_right(offsets, start, key=_end)
        last = bisect.bisect_left(offsets, end, key=_start)
        mask[first:last] = [True] * (last - first)
    return mask


def text_ends(offsets: Sequence[Span]) -> list[int]:
    """How far the text is written after each token; a character of several tokens counts with the last of them."""
    return list(accumulate((end for _, end in offsets), max))


def common_prefix(left: str, right: str) -> str:
    """The characters with which both texts begin."""
    differing = (place for place, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return left[: next(differing, min(len(left), len(right)))]
