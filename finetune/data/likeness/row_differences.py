"""Decides whether two rows say the same: words that differ, and where they stand. Used by near_duplicates.py.

Rows that share a long context but ask different things, or have different answers, are related, not the same.
"""

import difflib
import enum
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field

from finetune.data.likeness.misprints import common_ends, is_misprint
from finetune.data.likeness.word_hashes import UNSPACED_CLASS, fold
from finetune.records import Conversation

SHORT_WORDS = 25
"""A line, question or answer with fewer words must be equal but for misprints; longer ones may differ in part."""
SHORTEST_DATED_WORDS = 12
"""A statement (no question, no answer) of so many words may also differ in its dates."""
CONTEXT_WORDS = 25
"""Rows are related when they share a passage of so many words."""

_WORDS_PER_MISPRINT = 8
_MOST_CHANGED_NUMBERS = 0.5
_RUN_WORDS = 5
_ALIGNED_WORDS = 100

_TOKEN = re.compile(
    rf"[{UNSPACED_CLASS}]"
    r"|\d+(?:[.,:/-]\d+)*(?![^\W_])"
    rf"|[^\W_{UNSPACED_CLASS}]+(?:['’][^\W_{UNSPACED_CLASS}]+)*"
    r"|[<>=!]=|[<>=≤≥≠±×÷+/%]"
    r"|(?<=[\w)\]])\*\*?(?=[\w(\[])|(?<=[\w)\]] )(?:\*\*?|-|&|\|)(?= [\w(\[])"
    r"|(?<![\w.])-(?=[\d.])|(?<=[\d)\]])-(?=[\w(])"
)
_QUESTION_MARKS = ("?", "？", "؟")
_STATEMENT_ENDS = (". ", "! ", ": ", "; ", "。", "！")
_WRAPPED = re.compile(r"(?<=[^\s.?!:;。？！؟])[ \t]*\n[ \t]*(?=[a-zà-ÿ])")
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


@dataclass(frozen=True, slots=True)
class Segment:
    """A line or a question of a part, as a range of its tokens."""

    start: int
    end: int
    is_statement: bool
    """No question, and no answer of a chat: its dates count less than other words."""

    def may_differ(self, tokens: Sequence[str], places: Sequence[int], similarity: float) -> bool:
        """Whether words at these places inside the segment may differ from its counterpart."""
        length = self.end - self.start
        if len(places) > (1 - similarity) * length:
            return False
        if length >= SHORT_WORDS:
            return True
        dated = self.is_statement and length >= SHORTEST_DATED_WORDS
        return dated and all(_is_date(tokens, place) for place in places)


@dataclass(frozen=True, slots=True)
class Part:
    """The prompt or the answer of a row, as tokens and the segments that they belong to."""

    tokens: list[str]
    segments: list[Segment]


@dataclass(slots=True)
class PreparedRow:
    """A row as it is compared; `contexts` are its long segments that are no template of the data set."""

    prompt: Part
    answer: Part
    is_text: bool
    contexts: list[list[str]]
    _runs: frozenset[tuple[str, ...]] | None = field(default=None)

    @property
    def num_words(self) -> int:
        """Words of prompt and answer."""
        return len(self.prompt.tokens) + len(self.answer.tokens)

    def runs(self) -> frozenset[tuple[str, ...]]:
        """All runs of five words of the row, made at the first call."""
        if self._runs is None:
            self._runs = _runs(self.prompt.tokens) | _runs(self.answer.tokens)
        return self._runs


def prepare_row(conversation: Conversation, is_template: Callable[[str], bool]) -> PreparedRow:
    """Split a row into prompt and answer; a plain text is all answer. `is_template` tells sentences that many share."""
    if conversation.text is not None:
        tokens = split_words(conversation.text)
        answer = Part(tokens, [Segment(0, len(tokens), True)])
        return PreparedRow(Part([], []), answer, True, list(_contexts([conversation.text], is_template)))
    texts = [message.content + (message.tool_calls or "") for message in conversation.messages]
    lines = [line for text in texts for line in text.split("\n")]
    tokens = split_words(texts[-1])
    answer = Part(tokens, [Segment(0, len(tokens), False)])
    return PreparedRow(
        _split_part([*texts[:-1], conversation.tools or ""]), answer, False, list(_contexts(lines, is_template))
    )


def split_words(text: str) -> list[str]:
    """Words, numbers and operators of the folded text; characters of scripts without spaces one by one."""
    return _TOKEN.findall(fold(text))


def split_sentences(text: str) -> list[str]:
    """Sentences of each line in small letters; for finding what many rows say, so abbreviations do not matter. Fast."""
    return text.casefold().replace("! ", ". ").replace("? ", ". ").replace("。", ". ").replace("\n", ". ").split(". ")


def compare_rows(first: PreparedRow, second: PreparedRow, similarity: float) -> tuple[Relation, float]:
    """Say what two rows are to each other, and which share of their words is the same (0 where that is not known).

    The same: answers and every long segment of the prompt share at least `similarity` of their words in their order,
    every short one all, misprints aside. Numbers in answers count most: with more than half of them changed, or any in
    a short answer, rows are not the same. Related: a long segment of one stands in the other.
    """
    share = _same_share(first, second, similarity)
    if share is not None:
        return Relation.same, share
    if _shares_context(first, second, similarity) or _shares_context(second, first, similarity):
        return Relation.related, 0.0
    return Relation.different, 0.0


def _same_share(first: PreparedRow, second: PreparedRow, similarity: float) -> float | None:
    if first.is_text != second.is_text:
        return None
    num_words = max(first.num_words, second.num_words)
    if min(first.num_words, second.num_words) < similarity * num_words:
        return None
    num_edits = 0
    for one, other in ((first.answer, second.answer), (first.prompt, second.prompt)):
        edits = find_edits(one.tokens, other.tokens, similarity)
        if edits is None:
            return None
        for part, places in ((one, edits.first), (other, edits.second)):
            if not _may_differ(part, places, similarity, numbers_count=not first.is_text):
                return None
        if edits.num_misprints > max(1, max(len(one.tokens), len(other.tokens)) // _WORDS_PER_MISPRINT):
            return None
        num_edits += max(len(edits.first), len(edits.second)) + edits.num_misprints
    share = 1 - num_edits / max(num_words, 1)
    return share if share >= similarity else None


def _may_differ(part: Part, places: Sequence[int], similarity: float, *, numbers_count: bool) -> bool:
    """Whether a part may differ from its counterpart in the words at `places` (ascending)."""
    if not places:
        return True
    for segment in part.segments:
        inside = [place for place in places if segment.start <= place < segment.end]
        if inside and not segment.may_differ(part.tokens, inside, similarity):
            return False
    if not numbers_count:
        return True
    changed = sum(_is_number(part.tokens, place) for place in places)
    if not changed:
        return True
    return changed <= _MOST_CHANGED_NUMBERS * sum(_is_number(part.tokens, place) for place in range(len(part.tokens)))


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


def find_edits(first: Sequence[str], second: Sequence[str], similarity: float) -> Edits | None:
    """Align two texts word by word; None where they plainly share less than `similarity` of their words."""
    start, end = common_ends(first, second)
    places = [range(start, len(first) - end), range(start, len(second) - end)]
    if max(map(len, places)) > _ALIGNED_WORDS:
        runs = _runs(first[start : len(first) - end]), _runs(second[start : len(second) - end])
        places = [
            _uncovered(first, start, len(first) - end, runs[1]),
            _uncovered(second, start, len(second) - end, runs[0]),
        ]
        allowed = (1 - similarity) * max(len(first), len(second)) + _RUN_WORDS
        if max(map(len, places)) > allowed:
            return None
    return _align(first, second, *places)


def _runs(tokens: Sequence[str]) -> frozenset[tuple[str, ...]]:
    return frozenset(_runs_in_order(tokens))


def _runs_in_order(tokens: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(tokens[place:] for place in range(_RUN_WORDS)), strict=False)


def _uncovered(tokens: Sequence[str], start: int, end: int, runs: Container[tuple[str, ...]]) -> list[int]:
    """Places between `start` and `end` that stand in none of the runs."""
    covered_to = start
    uncovered: list[int] = []
    for place, run in enumerate(_runs_in_order(tokens[start:end]), start=start):
        if run in runs:
            uncovered.extend(range(covered_to, place))
            covered_to = place + _RUN_WORDS
    uncovered.extend(range(covered_to, end))
    return uncovered


def _align(first: Sequence[str], second: Sequence[str], places: Sequence[int], other: Sequence[int]) -> Edits:
    """Align the words at `places` with those at `other`; misprints pair up, the rest are edits."""
    left, right = [first[place] for place in places], [second[place] for place in other]
    edits = Edits([], [], 0)
    num_misprints = 0
    for kind, a, b, c, d in difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        if _are_misprints(left[a:b], right[c:d]):
            num_misprints += max(b - a, d - c)
            continue
        edits.first.extend(places[a:b])
        edits.second.extend(other[c:d])
    return Edits(edits.first, edits.second, num_misprints)


def _are_misprints(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether some words differ from others by a misprint each, or by a lost or added space."""
    if len(left) == len(right):
        return all(map(is_misprint, left, right))
    return max(len(left), len(right)) <= 3 and is_misprint("".join(left), "".join(right))


def _shares_context(row: PreparedRow, other: PreparedRow, similarity: float) -> bool:
    """Whether a long segment of `row` stands in `other`, up to `similarity` of its words."""
    for context in row.contexts:
        if other.runs().isdisjoint(_runs(context)):
            continue
        missing = _uncovered(context, 0, len(context), other.runs())
        if len(missing) <= (1 - similarity) * len(context):
            return True
    return False


def _split_part(texts: Sequence[str]) -> Part:
    """Tokens of the prompt, with each line, and each question inside a line, as a segment."""
    tokens: list[str] = []
    segments: list[Segment] = []
    for text in texts:
        for piece in _pieces(text):
            start = len(tokens)
            is_question = piece.endswith(_QUESTION_MARKS)
            tokens += split_words(piece)
            if len(tokens) > start:
                segments.append(Segment(start, len(tokens), not is_question))
    return Part(tokens, segments)


def _pieces(text: str) -> Iterable[str]:
    """Lines of a text (a line that goes on in lower case is joined), questions apart from the rest."""
    for line in _WRAPPED.sub(" ", text).split("\n"):
        passed = 0
        for mark in re.finditer(r"[?？؟]", line):
            start = max(line.rfind(end, passed, mark.start()) for end in _STATEMENT_ENDS) + 1
            start = max(start, passed)
            yield line[passed:start]
            yield line[start : mark.end()]
            passed = mark.end()
        yield line[passed:]


def _contexts(lines: Iterable[str], is_template: Callable[[str], bool]) -> Iterable[list[str]]:
    """Lines that are long even without the sentences that many rows share, as words."""
    for line in lines:
        if len(line) >= CONTEXT_WORDS:
            tokens = split_words(" ".join(part for part in split_sentences(line) if not is_template(part)))
            if len(tokens) >= CONTEXT_WORDS:
                yield tokens
