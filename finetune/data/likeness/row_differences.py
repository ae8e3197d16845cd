"""Decides whether two rows say the same: words that differ, and where they stand. Used by near_duplicates.py.

Rows that share a long context but ask different things, or have different answers, are related, not the same.
"""

import difflib
import enum
import itertools
import re
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from itertools import pairwise

from finetune.data.likeness.misprints import common_ends, is_misprint
from finetune.data.likeness.prepared_rows import RUN_WORDS, Part, Passage, PreparedRow, Run, Segment, runs_in_order

SHORT_WORDS = 25
"""A line, question or answer with fewer words must be equal but for misprints; longer ones may differ in part."""
SHORTEST_DATED_WORDS = 12
"""A statement (no question, no answer) of so many words may also differ in its dates."""

_WORDS_PER_MISPRINT = 8
_MOST_CHANGED_NUMBERS = 0.5
_ALIGNED_WORDS = 100

_DATE = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|(?:19|20)\d\d")
_MONTHS = frozenset((
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
))  # fmt: skip


class Relation(enum.Enum):
    """What two rows are to each other."""

    same = enum.auto()
    related = enum.auto()
    different = enum.auto()


Alike = Callable[[str, str], bool]


def compare_rows(
    first: PreparedRow, second: PreparedRow, similarity: float, is_slip: Alike = lambda word, other: False
) -> tuple[Relation, float]:
    """Say what two rows are to each other, and which share of their words is the same (0 where that is not known).

    The same: answers and every long segment of the prompt share at least `similarity` of their words in their order,
    every short one all, misprints aside. Numbers in answers count most: with more than half of them changed, or any in
    a short answer, rows are not the same. Related: a long segment of one stands in the other. `is_slip` tells of two
    words that are not alike by themselves whether one is a misprint of the other; it is not asked of answers in chats.
    """
    share = _same_share(first, second, similarity, is_slip)
    if share is not None:
        return Relation.same, share
    if _shares_context(first, second, similarity) or _shares_context(second, first, similarity):
        return Relation.related, 0.0
    return Relation.different, 0.0


def _same_share(first: PreparedRow, second: PreparedRow, similarity: float, is_slip: Alike) -> float | None:
    if first.is_text != second.is_text:
        return None
    num_words = max(first.num_words, second.num_words)
    if min(first.num_words, second.num_words) < similarity * num_words:
        return None
    num_edits = 0
    for one, other in ((first.answer, second.answer), (first.prompt, second.prompt)):
        takes_slips = first.is_text or one is first.prompt
        edits = find_edits(one.tokens, other.tokens, similarity, is_slip if takes_slips else None)
        if edits is None:
            return None
        for part, places in ((one, edits.first), (other, edits.second)):
            if not _may_differ(part, places, similarity, numbers_count=not first.is_text):
                return None
        if edits.num_misprints > max(1, max(len(one.tokens), len(other.tokens)) // _WORDS_PER_MISPRINT):
            return None
        num_edits += (
            max(_num_changes(one.tokens, edits.first), _num_changes(other.tokens, edits.second)) + edits.num_misprints
        )
    share = 1 - num_edits / max(num_words, 1)
    return share if share >= similarity else None


def _may_differ(part: Part, places: Sequence[int], similarity: float, *, numbers_count: bool) -> bool:
    """Whether a part may differ from its counterpart in the words at `places` (ascending)."""
    if not places:
        return True
    for segment in part.segments:
        inside = [place for place in places if segment.start <= place < segment.end]
        if inside and not _segment_may_differ(segment, part.tokens, inside, similarity):
            return False
    if not numbers_count:
        return True
    changed = sum(_is_number(part.tokens, place) for place in places)
    if not changed:
        return True
    return changed <= _MOST_CHANGED_NUMBERS * sum(_is_number(part.tokens, place) for place in range(len(part.tokens)))


def _segment_may_differ(segment: Segment, tokens: Sequence[str], places: Sequence[int], similarity: float) -> bool:
    """Whether words at these places inside the segment may differ from its counterpart."""
    length = segment.end - segment.start
    if _num_changes(tokens, places) > (1 - similarity) * length:
        return False
    if length >= SHORT_WORDS:
        return True
    dated = segment.is_statement and length >= SHORTEST_DATED_WORDS
    return dated and all(_is_date(tokens, place) for place in places)


def _num_changes(tokens: Sequence[str], places: Sequence[int]) -> int:
    """Words at these places (ascending), where the words of one date count once."""
    return len(places) - sum(
        place == before + 1 and _is_date(tokens, before) and _is_date(tokens, place)
        for before, place in pairwise(places)
    )


def _is_number(tokens: Sequence[str], place: int) -> bool:
    """Whether a token is a number and no part of a date."""
    return tokens[place][0].isdigit() and not _is_date(tokens, place)


def _is_date(tokens: Sequence[str], place: int) -> bool:
    """Whether a token is a month, a whole date, a year, or a number beside a month."""
    token = tokens[place]
    if token in _MONTHS or _DATE.fullmatch(token):
        return True
    return token[0].isdigit() and not _MONTHS.isdisjoint(tokens[max(place - 3, 0) : place + 4])


@dataclass(frozen=True, slots=True)
class Edits:
    """Places of words that stand in one text only (ascending), and the number of words that differ by a misprint."""

    first: list[int]
    second: list[int]
    num_misprints: int


def find_edits(
    first: Sequence[str], second: Sequence[str], similarity: float, is_slip: Alike | None = None
) -> Edits | None:
    """Align two texts word by word; None where they plainly share less than `similarity` of their words."""
    start, end = common_ends(first, second)
    places = [range(start, len(first) - end), range(start, len(second) - end)]
    if max(map(len, places)) > _ALIGNED_WORDS:
        runs = [frozenset(runs_in_order(text[start : len(text) - end])) for text in (first, second)]
        places = [
            _uncovered(first, start, len(first) - end, runs[1]),
            _uncovered(second, start, len(second) - end, runs[0]),
        ]
        allowed = (1 - similarity) * max(len(first), len(second)) + RUN_WORDS
        if max(map(len, places)) > allowed:
            return None
    return _align(first, second, places[0], places[1], is_slip)


def _uncovered(tokens: Sequence[str], start: int, end: int, runs: Container[tuple[str, ...]]) -> list[int]:
    """Places between `start` and `end` that stand in none of the runs."""
    covered_to = start
    uncovered: list[int] = []
    for place, run in enumerate(runs_in_order(tokens[start:end]), start=start):
        if run in runs:
            uncovered.extend(range(covered_to, place))
            covered_to = place + RUN_WORDS
    uncovered.extend(range(covered_to, end))
    return uncovered


def _align(
    first: Sequence[str], second: Sequence[str], places: Sequence[int], other: Sequence[int], is_slip: Alike | None
) -> Edits:
    """Align the words at `places` with those at `other`; misprints pair up, the rest are edits."""
    if not places and not other:
        return Edits([], [], 0)
    left, right = [first[place] for place in places], [second[place] for place in other]
    edits = Edits([], [], 0)
    num_misprints = 0
    if not left or not right or set(left).isdisjoint(right):
        steps = [("replace", 0, len(left), 0, len(right))]
    else:
        steps = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    for kind, a, b, c, d in steps:
        if kind == "equal":
            continue
        if _are_misprints(left[a:b], right[c:d], is_slip):
            num_misprints += max(b - a, d - c)
            continue
        edits.first.extend(places[a:b])
        edits.second.extend(other[c:d])
    return Edits(edits.first, edits.second, num_misprints)


def _are_misprints(left: Sequence[str], right: Sequence[str], is_slip: Alike | None) -> bool:
    """Whether some words differ from others by a misprint each, or by a lost or added space."""
    if len(left) == len(right):
        return all(
            is_misprint(word, other) or (is_slip is not None and is_slip(word, other))
            for word, other in zip(left, right, strict=True)
        )
    return max(len(left), len(right)) <= 3 and is_misprint("".join(left), "".join(right))


def _shares_context(row: PreparedRow, other: PreparedRow, similarity: float) -> bool:
    """Whether a passage of `row` stands in `other`, up to `similarity` of its words."""
    return any(
        other.holds(context.tokens) or _num_missing(context, other.runs()) <= (1 - similarity) * len(context.tokens)
        for context in row.contexts
    )


def _num_missing(passage: Passage, runs: frozenset[Run]) -> int:
    """Words of a passage that stand in none of the runs."""
    num_covered = covered_to = 0
    for place in itertools.compress(itertools.count(), map(runs.__contains__, passage.runs())):
        num_covered += place + RUN_WORDS - max(covered_to, place)
        covered_to = place + RUN_WORDS
    return len(passage.tokens) - num_covered
