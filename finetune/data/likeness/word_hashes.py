"""Words of a text as 64-bit numbers, hashed for many rows at once; used by near_duplicates.py and contamination.py.

Texts are folded (Unicode NFKC, no capitals) and their punctuation is dropped. Scripts that put no spaces between words
(Chinese, Japanese, Thai, Lao, Burmese, Khmer) count each character as a word. The numbers are the same on every
machine and in every process.
"""

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]

_CHUNK_CHARACTERS = 1 << 18
_WORD, _ALONE = 1, 2
_TABLE_SIZE = 0x20000
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Japanese syllables
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Chinese characters
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
)
UNSPACED_CLASS = "".join(f"{chr(first)}-{chr(last)}" for first, last in (*_UNSPACED, (0x20000, 0x3FFFF)))
"""The scripts without spaces, as ranges for a regular expression's [class]."""

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_LONGEST_RUN = 1024
_FACTORS = np.array([pow(0xD6E8FEB86659FD93, power, 1 << 64) for power in range(1, _LONGEST_RUN + 1)], dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class RowWords:
    """The word hashes of several rows, one after the other: row i has `hashes[offsets[i] : offsets[i + 1]]`."""

    hashes: Hashes
    offsets: Positions
    is_single: NDArray[np.bool_]
    """Whether a word is one letter or digit alone, such as the A. of a list; not in scripts without spaces."""


def fold(text: str) -> str:
    """Make texts comparable: compatible characters as one (Unicode NFKC), no capitals."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()


def hash_rows(texts: Sequence[str]) -> RowWords:
    """Fold and hash the words of many texts; working memory stays small whatever the length of a text."""
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    found: list[Hashes] = []
    single: list[NDArray[np.bool_]] = []
    for pieces, rows in _chunks(texts):
        hashes, starts, _, is_single = _hash_chunk("\n".join(pieces))
        found.append(hashes)
        single.append(is_single)
        ends = np.cumsum([len(piece) + 1 for piece in pieces])
        counts = np.diff(np.searchsorted(starts, ends), prepend=0)
        np.add.at(offsets, np.asarray(rows) + 1, counts)
    hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *found])
    return RowWords(hashes, np.cumsum(offsets), np.concatenate([np.zeros(0, dtype=np.bool_), *single]))


def locate_words(text: str) -> tuple[Positions, Positions]:
    """Return start and end of each word in the folded text, in characters; same words as in `hash_rows`."""
    starts: list[Positions] = []
    ends: list[Positions] = []
    passed = 0
    for pieces, _ in _chunks([text]):
        _, start, end, _ = _hash_chunk(pieces[0])
        starts.append(start + passed)
        ends.append(end + passed)
        passed += len(pieces[0])
    return np.concatenate(starts), np.concatenate(ends)


def hash_runs(hashes: Hashes, num_words: int) -> Hashes:
    """Hash every run of `num_words` (at most 1024): W words give W - num_words + 1 runs, or none if W is smaller."""
    num_runs = max(len(hashes) - num_words + 1, 0)
    runs = np.zeros(num_runs, dtype=np.uint64)
    for place in range(num_words):
        runs += hashes[place : place + num_runs] * _FACTORS[place]
    return mix(runs)


def mix(values: Hashes) -> Hashes:
    """Spread 64-bit numbers evenly (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _chunks(texts: Sequence[str]) -> Iterator[tuple[list[str], list[int]]]:
    """Gather folded texts, and pieces of very long ones, into chunks; with the row that each piece belongs to."""
    pieces: list[str] = []
    rows: list[int] = []
    size = 0
    for row, text in enumerate(texts):
        for piece in _pieces(fold(text)):
            if pieces and size + len(piece) > _CHUNK_CHARACTERS:
                yield pieces, rows
                pieces, rows, size = [], [], 0
            pieces.append(piece)
            rows.append(row)
            size += len(piece)
    if pieces:
        yield pieces, rows


def _pieces(folded: str) -> Iterator[str]:
    """Cut a very long text behind a space or line end, if there is one in the chunk."""
    start = 0
    while len(folded) - start > _CHUNK_CHARACTERS:
        end = start + _CHUNK_CHARACTERS
        space = max(folded.rfind(" ", start, end), folded.rfind("\n", start, end))
        end = space + 1 if space >= start else end
        yield folded[start:end]
        start = end
    yield folded[start:]


def _hash_chunk(folded: str) -> tuple[Hashes, Positions, Positions, NDArray[np.bool_]]:
    """Hash each word of a folded text (a polynomial of its characters modulo 2^64).

    With the starts and ends of the words, and whether they are single letters or digits.
    """
    codes = np.frombuffer(folded.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    kinds = _kinds()[np.minimum(codes, _TABLE_SIZE)]
    in_word = kinds == _WORD
    alone = kinds == _ALONE
    before = np.zeros_like(in_word)
    before[1:] = in_word[:-1]
    after = np.zeros_like(in_word)
    after[:-1] = in_word[1:]
    starts = np.flatnonzero((in_word & ~before) | alone)
    ends = np.flatnonzero((in_word & ~after) | alone) + 1
    powers, inverses = _powers(max(len(codes), _CHUNK_CHARACTERS * 2))
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * powers[: len(codes)], out=sums[1:])
    is_single = (ends - starts == 1) & in_word[starts]
    return mix((sums[ends] - sums[starts]) * inverses[starts]), starts, ends, is_single


@functools.cache
def _kinds() -> NDArray[np.uint8]:
    """The kind of every character: separator, part of a word, or a word by itself; the last entry is for all beyond."""
    kinds = np.zeros(_TABLE_SIZE + 1, dtype=np.uint8)
    for code in range(_TABLE_SIZE):
        character = chr(code)
        if character.isalnum() or unicodedata.category(character) in ("Mn", "Mc"):
            kinds[code] = _WORD
    for first, last in _UNSPACED:
        kinds[first : last + 1][kinds[first : last + 1] == _WORD] = _ALONE
    kinds[_TABLE_SIZE] = _ALONE
    return kinds


@functools.lru_cache(maxsize=1)
def _powers(length: int) -> tuple[Hashes, Hashes]:
    """Powers of the polynomial's base and of its inverse modulo 2^64."""
    powers = np.full(length, _BASE, dtype=np.uint64)
    inverses = np.full(length, _INVERSE, dtype=np.uint64)
    powers[0] = inverses[0] = 1
    return np.cumprod(powers, dtype=np.uint64), np.cumprod(inverses, dtype=np.uint64)
