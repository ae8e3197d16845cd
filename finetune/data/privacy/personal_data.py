"""Applies `data.pii` to each row before it is stored; called by `data.read` for every conversation."""

import re
from collections import OrderedDict

from finetune.config import PII_POLICIES
from finetune.data.privacy import engine
from finetune.data.privacy.engine import Finding
from finetune.data.privacy.excerpts import SEPARATOR, search
from finetune.data.privacy.fields import Field, fields_of, with_fields
from finetune.data.privacy.redaction import Placeholders, replace_findings, resolve
from finetune.errors import ConfigError, DataError
from finetune.records import Conversation

NOT_FOUND = (
    "Not looked for: names of people, street addresses, places, employers, diagnoses and other free text; they cannot "
    "be found without a language model. Patterns and checksums also miss unusual notations: a help, no guarantee."
)
"""What the ledger and the report say beside the counts."""
_EXAMPLES_KEPT = 3
_DOCUMENTS_REMEMBERED = 10_000
_MOST_REPEATED_VALUES = 500
_SHORTEST_REPEATED_VALUE = 5


class PersonalData:
    """Counts, replaces or refuses personal data, row by row.

    `counts` holds findings by kind, `rows` the rows with any, `examples` up to three sources by kind. No value is
    kept beyond the document's own placeholders in memory, logged or put into a message.
    """

    def __init__(self, policy: str) -> None:
        """Take `data.pii`: off, report, redact or refuse.

        Raises:
            ConfigError: an unknown policy, or the extra `privacy` is not installed.
        """
        self.policy = "off" if policy == "False" else policy
        if self.policy not in PII_POLICIES:
            raise ConfigError(f"data.pii: {policy!r} is unknown. Known: {', '.join(PII_POLICIES)}")
        if self.policy != "off":
            engine.check_installed()
        self.counts: dict[str, int] = {}
        self.rows = 0
        self.examples: dict[str, list[str]] = {}
        self._documents: OrderedDict[str, Placeholders] = OrderedDict()

    def check(self, conversation: Conversation) -> Conversation:
        """Count the personal data of one conversation; under `redact`, return it with placeholders instead.

        Raises:
            DataError: the search failed; the message holds the source, never the text.
        """
        if self.policy == "off":
            return conversation
        fields = fields_of(conversation)
        try:
            findings = find(fields)
        except RuntimeError as error:
            raise DataError(f"{conversation.source}: {error}; set data.pii=off to read it unsearched") from None
        self._count(findings, conversation.source)
        if self.policy != "redact" or not any(findings):
            return conversation
        return self._redact(conversation, fields, findings)

    def finish(self) -> None:
        """End the reading; under `refuse`, stop the run if anything was found.

        Raises:
            DataError: with counts and the first sources by kind, never a value.
        """
        if self.policy != "refuse" or not self.counts:
            return
        kinds = ", ".join(
            f"{kind} {count} ({', '.join(self.examples[kind])}{', …' if count > len(self.examples[kind]) else ''})"
            for kind, count in sorted(self.counts.items(), key=lambda item: -item[1])
        )
        rows = "1 row holds" if self.rows == 1 else f"{self.rows} rows hold"
        raise DataError(
            f"data.pii=refuse: {rows} personal data: {kinds}. Remove it, or set data.pii=redact, which puts "
            "placeholders such as [EMAIL_1] in its place. Names are not looked for"
        )

    def _count(self, findings: list[list[Finding]], source: str) -> None:
        kinds = [one.kind for found in findings for one in found]
        self.rows += bool(kinds)
        for kind in kinds:
            self.counts[kind] = self.counts.get(kind, 0) + 1
        for kind in dict.fromkeys(kinds):
            kept = self.examples.setdefault(kind, [])
            if len(kept) < _EXAMPLES_KEPT and source not in kept:
                kept.append(source)

    def _redact(self, conversation: Conversation, fields: list[Field], findings: list[list[Finding]]) -> Conversation:
        placeholders = self._placeholders(conversation)
        for field in fields:
            placeholders.reserve(field.text)
        redacted = _replaced(conversation, fields, findings, placeholders, exact=False)
        if len(set(redacted.options)) < len(set(conversation.options)):
            # Options that differ in notation alone must stay different.
            redacted = _replaced(conversation, fields, findings, placeholders, exact=True)
        return redacted

    def _placeholders(self, conversation: Conversation) -> Placeholders:
        """Return the placeholders of the document: all rows of a group, all passages of one source."""
        document = conversation.group if conversation.group is not None else conversation.source
        placeholders = self._documents.pop(document, None) or Placeholders()
        self._documents[document] = placeholders
        if len(self._documents) > _DOCUMENTS_REMEMBERED:
            self._documents.popitem(last=False)
        return placeholders


def find(fields: list[Field]) -> list[list[Finding]]:
    """Return the findings of each field, ordered and not overlapping.

    All fields are searched as one text, so that a question gives context to its answer; a value found in one field
    is then found in all of them.

    Raises:
        RuntimeError: a recogniser failed.
    """
    parts: list[str] = []
    places: list[int] = []
    at = 0
    for field in fields:
        label = field.label.replace("_", " ") + ": " if field.label else ""
        places.append(at + len(label))
        parts.append(label + field.text)
        at += len(label) + len(field.text) + len(SEPARATOR)
    found = search(SEPARATOR.join(parts), engine.analyze)
    by_field = [
        [
            Finding(start=max(one.start - place, 0), end=one.end - place, kind=one.kind, score=one.score)
            for one in inside
        ]
        for place, inside in zip(places, _by_field(found, places, fields), strict=True)
    ]
    return _repeated(fields, [resolve(inside) for inside in by_field])


def _by_field(found: list[Finding], places: list[int], fields: list[Field]) -> list[list[Finding]]:
    """Sort findings into the fields they lie in; one that reaches beyond its field is cut, in a label it is dropped."""
    from bisect import bisect_right

    sorted_in: list[list[Finding]] = [[] for _ in fields]
    for one in found:
        number = bisect_right(places, one.start) - 1
        if number >= 0 and one.end <= places[number] + len(fields[number].text):
            sorted_in[number].append(one)
    return sorted_in


def _repeated(fields: list[Field], findings: list[list[Finding]]) -> list[list[Finding]]:
    """Add every further place of a value that was found somewhere, say in an answer without its context."""
    kinds: dict[str, Finding] = {}
    for field, found in zip(fields, findings, strict=True):
        for one in found:
            value = field.text[one.start : one.end]
            if len(value) >= _SHORTEST_REPEATED_VALUE:
                kinds.setdefault(value, one)
    if not kinds or len(kinds) > _MOST_REPEATED_VALUES:
        return findings
    values = "|".join(re.escape(value) for value in sorted(kinds, key=len, reverse=True))
    pattern = re.compile(rf"(?<![0-9A-Za-z])(?:{values})(?![0-9A-Za-z])")
    return [_with_repeated(field.text, found, pattern, kinds) for field, found in zip(fields, findings, strict=True)]


def _with_repeated(
    text: str, found: list[Finding], pattern: re.Pattern[str], kinds: dict[str, Finding]
) -> list[Finding]:
    more = [
        Finding(start=match.start(), end=match.end(), kind=kinds[match[0]].kind, score=0.01)
        for match in pattern.finditer(text)
    ]
    return resolve([*found, *more])


def _replaced(
    conversation: Conversation,
    fields: list[Field],
    findings: list[list[Finding]],
    placeholders: Placeholders,
    *,
    exact: bool,
) -> Conversation:
    texts = [
        replace_findings(field.text, found, placeholders, exact=exact)
        for field, found in zip(fields, findings, strict=True)
    ]
    return with_fields(conversation, texts)
