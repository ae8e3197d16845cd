"""Placeholders that stand for personal data: the same value has the same placeholder throughout a document."""

import re

from finetune.data.privacy.engine import Finding

_PLACEHOLDER = re.compile(r"\[([A-Z][A-Z0-9_]{1,40})_([0-9]{1,6})\]")


class Placeholders:
    """The placeholders of one document, numbered by kind in the order in which values appear."""

    __slots__ = ("_by_value", "_last")

    def __init__(self) -> None:
        self._by_value: dict[tuple[str, str], str] = {}
        self._last: dict[str, int] = {}

    def reserve(self, text: str) -> None:
        """Never give out a placeholder that the text holds already."""
        for label, number in _PLACEHOLDER.findall(text):
            self._last[label] = max(self._last.get(label, 0), int(number))

    def of(self, kind: str, value: str, *, exact: bool = False) -> str:
        """Return the placeholder of a value; notations of the same value share it, unless `exact`."""
        key = (kind, value if exact else _canonical(value))
        if key not in self._by_value:
            label = kind.upper()
            self._last[label] = self._last.get(label, 0) + 1
            self._by_value[key] = f"[{label}_{self._last[label]}]"
        return self._by_value[key]


def resolve(findings: list[Finding]) -> list[Finding]:
    """Order findings by place and make overlapping ones a single one: the best kind, over all that they cover."""
    resolved: list[Finding] = []
    for one in sorted(findings, key=lambda found: (found.start, -found.end)):
        last = resolved[-1] if resolved else None
        if last is None or one.start >= last.end:
            resolved.append(one)
            continue
        best = max(last, one, key=lambda found: (found.score, found.end - found.start))
        resolved[-1] = Finding(start=last.start, end=max(last.end, one.end), kind=best.kind, score=best.score)
    return resolved


def replace_findings(text: str, findings: list[Finding], placeholders: Placeholders, *, exact: bool = False) -> str:
    """Return the text with each finding (ordered, not overlapping) replaced by its placeholder."""
    parts: list[str] = []
    at = 0
    for one in findings:
        parts += (text[at : one.start], placeholders.of(one.kind, text[one.start : one.end], exact=exact))
        at = one.end
    return "".join((*parts, text[at:]))


def _canonical(value: str) -> str:
    letters = re.sub(r"[\W_]+", "", value).casefold()
    return letters or value
