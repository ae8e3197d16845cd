"""Counts the words of a data set, and tells by that whether an odd word is a misprint. Used by near_duplicates.py.

A word that hardly occurs in the rows and looks like one that often does is more likely a slip than a word.
"""

import re

import numpy as np

from finetune.data.likeness.misprints import common_ends
from finetune.data.likeness.word_hashes import Hashes, hash_rows

FEWEST_TIMES = 20
"""A word is frequent from so many places on."""
TIMES_AS_OFTEN = 200
"""A misprint stands in one place, or in one for so many places of the right word."""

_COUNTER_BITS = 20
_LOOKALIKES = frozenset(("ce", "eo", "co", "nr", "hb", "uv", "il", "lt", "nh", "ft", "gq", "ij"))
_CONFUSED = frozenset("".join(sorted(pair)) for pair in _LOOKALIKES)
"""Letters that scanners take for one another, each pair in alphabetical order."""
_SHORT_WORDS = """
a ad add ah all am an and any are arm art as ask at ate bad bag ban bar bat be bed bet bid big bin bit box boy but buy
by can car case cat cease cell cost cut day deal did die do does done dot due each ear eat egg end era even ever eye
fact fan far fat fee few find fit five fix for form four from full fun gap gas get give go goal got had has hat have
he heal her here hers hid high him hip his hit hot how if ill in ink into is it its job just key kid lab lag land last
late law lay least led left leg less lest let lid lie life like line lip list live lose loss lot love low mad made
male man many map mat may mean meet men met mild mine mix more most much must name near neck need net new next no nod
none nor not note now of off oil old on once one only or ore other our out over owe own paid pain pan part past pay
per pin plan post pot put rain ran rat rate raw ray real red rib right rise role row rule run sad safe sale same sat
save saw say see seek self sell send sent set seven shall she shut sick side sign sin sit six skin small so some son
soon sort spot stay such sum sun take tan tax tea tell ten term test than that the their them then there these they
thin thing this those though three through thus time tin tip to toe ton too top toy try two type under up upon us use
used user vein very via void want war was way we weak week well went were wet what when where which while who whom
whose why wide will win wine wish with within without won word work worn would year yes yet you your
"""
_WORDS = frozenset(_SHORT_WORDS.split())
"""Real words that one letter parts from a frequent one: however rare in a data set, they are no misprints."""
_LETTERS = re.compile(r"[^\W\d_]+")


class Vocabulary:
    """How often each word stands in the rows, by hash: a word is counted too often at times, never too rarely."""

    def __init__(self) -> None:
        self._counts = np.zeros(1 << _COUNTER_BITS, dtype=np.uint32)

    def add(self, hashes: Hashes) -> None:
        """Count words, given by their hashes as `hash_rows` makes them."""
        places = (hashes >> np.uint64(64 - _COUNTER_BITS)).astype(np.int64)
        self._counts += np.bincount(places, minlength=len(self._counts)).astype(np.uint32)

    def is_slip(self, word: str, other: str) -> bool:
        """Whether of two folded words one is all but unknown to the data, the other frequent, and a slip parts them.

        A slip doubles a letter, swaps two, takes one for a lookalike, or loses, adds or changes one inside the word.
        What changes a word's end or beginning otherwise makes another word (employee, atypical), so it is none.
        """
        if not (_LETTERS.fullmatch(word) and _LETTERS.fullmatch(other)) or not differ_by_slip(word, other):
            return False
        counts = self._count(word), self._count(other)
        rare = word if counts[0] <= counts[1] else other
        most = max(1, max(counts) // TIMES_AS_OFTEN)
        return min(counts) <= most and max(counts) >= FEWEST_TIMES and rare not in _WORDS

    def _count(self, word: str) -> int:
        found = hash_rows([word]).hashes
        return int(self._counts[int(found[0]) >> (64 - _COUNTER_BITS)]) if len(found) == 1 else 0


def differ_by_slip(word: str, other: str) -> bool:
    """Whether one slip of the pen or the scanner makes one of two words of the other."""
    short, long = sorted((word, other), key=len)
    if len(long) - len(short) > 1 or not short:
        return False
    start, end = common_ends(short, long)
    left, right = short[start : len(short) - end], long[start : len(long) - end]
    is_inside = start > 0 and end > 0 and len(long) >= 3
    if len(left) == len(right) == 2:
        return left == right[::-1]
    if not left and len(right) == 1:
        return is_inside or right in (long[start - 1 : start], long[start + 1 : start + 2])
    return len(left) == len(right) == 1 and (is_inside or "".join(sorted(left + right)) in _CONFUSED)
