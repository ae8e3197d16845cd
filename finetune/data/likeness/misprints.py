"""Tells a misread or mistyped word from another word. Used by row_differences.py and vocabulary.py."""

import re
from collections.abc import Sequence

_APOSTROPHE = re.compile("['’]")
_CONFUSED = re.compile(r"(?<=[^\W\d_])[015]|[015](?=[^\W\d_])")
_BLOCK = 32
_LETTER_OF = {"0": "o", "1": "l", "5": "s"}


def is_misprint(word: str, other: str) -> bool:
    """Whether two words differ as a misread or mistyped one does from the right one.

    Words of five letters and more may differ by one letter, by two swapped ones, or by what scanners take for one
    another (m for rn, 1 for l), but not at an end, so that typical and atypical, employer and employee stay two words.
    Numbers never differ by misprint.
    """
    if not (word.isalnum() and other.isalnum()):
        word, other = (_APOSTROPHE.sub("", text) for text in (word, other))
    if word == other:
        return True
    if word.isdigit() or other.isdigit():
        return False
    if _letters(word) == _letters(other):
        return True
    if min(len(word), len(other)) < 5 or abs(len(word) - len(other)) > 1 or not (word + other).isalpha():
        return False
    if word[0] != other[0] or word[-1] != other[-1]:
        return False
    start, end = common_ends(word, other)
    left, right = word[start : len(word) - end], other[start : len(other) - end]
    return max(len(left), len(right)) <= 1 or (len(left) == 2 and left == right[::-1])


def _letters(word: str) -> str:
    """A word with what scanners confuse written as one; two numbers in a word (x1, x2) stay different."""
    if not word.isalpha() and not word.isdigit():
        word = _CONFUSED.sub(lambda found: _LETTER_OF[found[0]], word)
    return word.replace("rn", "m").replace("vv", "w").replace("cl", "d")


def common_ends(first: Sequence[str], second: Sequence[str]) -> tuple[int, int]:
    """Number of equal words at the front and, behind those, at the end."""
    shorter = min(len(first), len(second))
    start = 0
    while start + _BLOCK <= shorter and first[start : start + _BLOCK] == second[start : start + _BLOCK]:
        start += _BLOCK
    while start < shorter and first[start] == second[start]:
        start += 1
    end = 0
    while end + _BLOCK <= shorter - start and _block_before(first, end) == _block_before(second, end):
        end += _BLOCK
    while end < shorter - start and first[-1 - end] == second[-1 - end]:
        end += 1
    return start, end


def _block_before(text: Sequence[str], end: int) -> Sequence[str]:
    """Some words or letters that stand before the last `end` ones."""
    return text[len(text) - end - _BLOCK : len(text) - end]
