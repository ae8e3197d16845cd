"""What a rule is: a pattern, a check of what it matched, and the words that must stand near it."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypedDict, Unpack

from finetune.data.privacy.checksums import compact

CONTEXT_BEFORE = 64
CONTEXT_AFTER = 28
"""Characters before and after a value in which its context words are looked for."""

LEFT = r"(?<![0-9A-Za-z])(?<![0-9][-.,/])(?<![$€£])"
RIGHT = r"(?![0-9A-Za-z]|[-.,/][0-9])"
"""A number stands alone: it is no part of a longer one, no decimal and no amount."""

_CONTEXT_BONUS = 0.1
_NEARNESS_BEHIND = 0.05
_CLAUSE_END = re.compile(r"[,;|\n\x00]|[.:]\s")
_LABELS_NEXT = re.compile(r"\s*(?:nos?\b\.?|number|nr\.?|id)?\s*(?:[:#=]|is\b|[A-Z]{0,3}[0-9])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One way in which one kind of personal data is written."""

    kind: str
    pattern: re.Pattern[str]
    """What is found is the group `value` where the pattern has one, else the whole match."""
    valid: Callable[[str], bool] | None = None
    """Check of the letters and digits found (upper case, separators gone)."""
    check: Callable[[str], bool] | None = None
    """Check of the text found, as it is written."""
    fits: Callable[[str, int, int], bool] | None = None
    """Check of the surroundings: the whole text, start and end of what was found."""
    context: re.Pattern[str] | None = None
    """Words of which one must stand near the value; None where the value speaks for itself."""
    before: int = CONTEXT_BEFORE
    after: int = CONTEXT_AFTER
    score: float = 0.6
    """Of two overlapping findings the higher score names the kind; in (0, 1]."""

    def judge(self, text: str, start: int, end: int) -> float:
        """Return the score of what stands at `text[start:end]`, higher where its context is near; 0 where it is not
        personal data."""
        value = text[start:end]
        if self.check is not None and not self.check(value):
            return 0.0
        if self.valid is not None and not self.valid(compact(value)):
            return 0.0
        if self.fits is not None and not self.fits(text, start, end):
            return 0.0
        if self.context is None:
            return self.score
        nearness = near(self.context, text, start, end, before=self.before, after=self.after)
        return self.score + _CONTEXT_BONUS * nearness if nearness else 0.0


def near(
    words: re.Pattern[str], text: str, start: int, end: int, *, before: int = CONTEXT_BEFORE, after: int = CONTEXT_AFTER
) -> float:
    """Say how near the closest context word stands to `text[start:end]`: 1 right before it, 0 for none.

    A word behind the value counts little, and only in the same clause and where it does not label the next value.
    """
    nearness = 0.0
    for found in words.finditer(text[max(start - before, 0) : start]):
        distance = min(start, before) - found.end()
        nearness = max(1 - distance / (before + 1), nearness)
    if nearness:
        return nearness
    behind = _CLAUSE_END.split(text[end : end + after], maxsplit=1)[0]
    found = words.search(behind)
    if found and not _LABELS_NEXT.match(text, end + found.end()):
        return _NEARNESS_BEHIND
    return 0.0


class RuleOptions(TypedDict, total=False):
    """The fields of a `Rule` that have a default."""

    valid: Callable[[str], bool] | None
    check: Callable[[str], bool] | None
    fits: Callable[[str, int, int], bool] | None
    context: re.Pattern[str] | None
    before: int
    after: int
    score: float


def rule(kind: str, pattern: str, *, flags: int = 0, **options: Unpack[RuleOptions]) -> Rule:
    """Make a rule from the source of its pattern."""
    return Rule(kind=kind, pattern=re.compile(pattern, flags), **options)


def words(*phrases: str) -> re.Pattern[str]:
    """Compile context words: any case, any separator between words, `*` at the end for any ending.

    "date of birth" finds `Date of birth`, `date_of_birth` and `dateOfBirth`. Chinese, Japanese and Arabic words are
    found inside other words, since their scripts do not always separate them.
    """
    return re.compile("|".join(_phrases(phrases)), re.IGNORECASE)


def _phrases(phrases: Iterable[str]) -> Iterable[str]:
    for phrase in phrases:
        stem = phrase.removesuffix("*")
        body = r"[\s_.-]{0,3}".join(re.escape(word) for word in stem.split())
        if any("\u0600" <= sign <= "\u06ff" or sign >= "\u3000" for sign in stem):
            yield body
        else:
            yield rf"(?<![^\W_]){body}" + ("" if phrase.endswith("*") else r"(?![^\W_])")
