"""Rows split into words, segments and passages for comparison. Used by near_duplicates.py and row_differences.py.

What many rows have in common, such as the context of several questions, is split once.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from sys import intern
from typing import Generic, TypeVar

from finetune.data.likeness.word_hashes import UNSPACED_CLASS, fold
from finetune.data.turn_text import turn_text
from finetune.records import Conversation

CONTEXT_WORDS = 25
"""Rows are related when they share a passage of so many words."""
RUN_WORDS = 5
"""Passages are compared by runs of so many words."""

_KEPT_WORDS = 200_000
_SHORTEST_KEPT_CHARACTERS = 100
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
_QUESTION_MARK = re.compile("[?？؟]")
_LINE_ENDS = frozenset(".?!:;。？！؟")

Run = tuple[str, ...]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Segment:
    """A line or a question of a part, as a range of its tokens."""

    start: int
    end: int
    is_statement: bool
    """No question, and no answer of a chat: its dates count less than other words."""


@dataclass(frozen=True, slots=True)
class Part:
    """The prompt or the answer of a row, as tokens and the segments that they belong to."""

    tokens: list[str]
    segments: list[Segment]


@dataclass(slots=True)
class Passage:
    """A long line of a row without the sentences that are templates of the data set."""

    tokens: list[str]
    _runs: list[Run] | None = field(default=None)

    def runs(self) -> list[Run]:
        """Its runs of five words in their order, made at the first call."""
        if self._runs is None:
            self._runs = list(runs_in_order(self.tokens))
        return self._runs


@dataclass(slots=True)
class PreparedRow:
    """A row as it is compared; `contexts` are its long lines that are no template of the data set."""

    prompt: Part
    answer: Part
    is_text: bool
    contexts: list[Passage]
    _runs: frozenset[Run] | None = field(default=None)

    @property
    def num_words(self) -> int:
        """Words of prompt and answer."""
        return len(self.prompt.tokens) + len(self.answer.tokens)

    @property
    def size(self) -> int:
        """About the memory of the row in units of one word; its runs, once made, take fifteen times as much."""
        return self.num_words if self._runs is None else 16 * self.num_words

    def runs(self) -> frozenset[Run]:
        """All runs of five words of the row, made at the first call."""
        if self._runs is None:
            self._runs = frozenset(runs_in_order(self.prompt.tokens)).union(runs_in_order(self.answer.tokens))
        return self._runs

    def holds(self, tokens: Sequence[str]) -> bool:
        """Whether one of the row's segments begins with these words; they may go on into the next segments."""
        return any(
            part.tokens[segment.start : segment.start + len(tokens)] == tokens
            for part in (self.prompt, self.answer)
            for segment in part.segments
            if segment.start + len(tokens) <= len(part.tokens)
        )


class RowPreparer:
    """Prepares rows; `is_template` tells sentences that many rows share. Long lines met before are kept."""

    def __init__(self, is_template: Callable[[str], bool]) -> None:
        self._is_template = is_template
        self._pieces: _Kept[list[str]] = _Kept()
        self._passages: _Kept[Passage] = _Kept()

    def prepare(self, conversation: Conversation) -> PreparedRow:
        """Split a row into prompt and answer; a plain text is all answer."""
        if conversation.text is not None:
            tokens = split_words(conversation.text)
            answer = Part(tokens, [Segment(0, len(tokens), True)])
            return PreparedRow(Part([], []), answer, True, self._contexts([conversation.text]))
        texts = [turn_text(message) for message in conversation.messages]
        lines = [line for text in texts for line in text.split("\n")]
        tokens = split_words(texts[-1])
        answer = Part(tokens, [Segment(0, len(tokens), False)])
        prompt = self._split_part([*texts[:-1], conversation.tools or ""])
        return PreparedRow(prompt, answer, False, self._contexts(lines))

    def _split_part(self, texts: Sequence[str]) -> Part:
        """Tokens of the prompt, with each line, and each question inside a line, as a segment."""
        tokens: list[str] = []
        segments: list[Segment] = []
        for text in texts:
            for piece in filter(None, _pieces(text)):
                start = len(tokens)
                is_question = piece.endswith(_QUESTION_MARKS)
                tokens += self._words(piece)
                if len(tokens) > start:
                    segments.append(Segment(start, len(tokens), not is_question))
        return Part(tokens, segments)

    def _words(self, piece: str) -> list[str]:
        if len(piece) < _SHORTEST_KEPT_CHARACTERS:
            return split_words(piece)
        known = self._pieces.get(piece)
        if known is None:
            known = split_words(piece)
            self._pieces.keep(piece, known, len(known))
        return known

    def _contexts(self, lines: Iterable[str]) -> list[Passage]:
        """Lines that are long even without the sentences that many rows share."""
        found: list[Passage] = []
        for line in lines:
            if len(line) < CONTEXT_WORDS:
                continue
            passage = self._passages.get(line)
            if passage is None:
                kept = " ".join(part for part in split_sentences(line) if not self._is_template(part))
                passage = Passage(split_words(kept))
                if len(line) >= _SHORTEST_KEPT_CHARACTERS:
                    self._passages.keep(line, passage, len(passage.tokens))
            if len(passage.tokens) >= CONTEXT_WORDS:
                found.append(passage)
        return found


class _Kept(Generic[Value]):
    """What was made of the texts met last, up to 200,000 words."""

    def __init__(self) -> None:
        self._values: OrderedDict[str, tuple[Value, int]] = OrderedDict()
        self._num_words = 0

    def get(self, text: str) -> Value | None:
        """Return what was made of a text, if it is still there."""
        found = self._values.get(text)
        if found is None:
            return None
        self._values.move_to_end(text)
        return found[0]

    def keep(self, text: str, value: Value, num_words: int) -> None:
        """Keep what was made of a text of so many words."""
        self._values[text] = value, num_words
        self._num_words += num_words
        while self._num_words > _KEPT_WORDS:
            self._num_words -= self._values.popitem(last=False)[1][1]


def split_words(text: str) -> list[str]:
    """Words, numbers and operators of the folded text; characters of scripts without spaces one by one."""
    return list(map(intern, _TOKEN.findall(fold(text))))


def split_sentences(text: str) -> list[str]:
    """Sentences of each line in small letters; for finding what many rows say, so abbreviations do not matter. Fast."""
    return text.casefold().replace("! ", ". ").replace("? ", ". ").replace("。", ". ").replace("\n", ". ").split(". ")


def runs_in_order(tokens: Sequence[str]) -> Iterable[Run]:
    """All runs of five words of a text, one for each word that four others follow."""
    return zip(*(tokens[place:] for place in range(RUN_WORDS)), strict=False)


def _pieces(text: str) -> Iterable[str]:
    """Lines of a text (a line that goes on in lower case is joined), questions apart from the rest."""
    for line in _joined_lines(text):
        passed = 0
        for mark in _QUESTION_MARK.finditer(line):
            start = max(line.rfind(end, passed, mark.start()) for end in _STATEMENT_ENDS) + 1
            start = max(start, passed)
            yield line[passed:start]
            yield line[start : mark.end()]
            passed = mark.end()
        yield line[passed:]


def _joined_lines(text: str) -> Iterable[str]:
    """Lines of a text, those that go on in lower case joined by a space."""
    parts: list[str] = []
    for line in text.split("\n"):
        following = line.lstrip(" \t")
        before = parts[-1].rstrip(" \t") if parts else ""
        if before and following and _goes_on(before[-1], following[0]):
            parts[-1] = before
            parts.append(following)
            continue
        if parts:
            yield " ".join(parts)
        parts = [line]
    yield " ".join(parts)


def _goes_on(last: str, following: str) -> bool:
    is_small = "a" <= following <= "z" or "à" <= following <= "ÿ"
    return is_small and not last.isspace() and last not in _LINE_ENDS
