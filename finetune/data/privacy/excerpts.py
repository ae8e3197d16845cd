"""Cuts a text down to the places where personal data can stand, so that long documents are searched in seconds.

Every kind holds a digit or one of a few signs; a stretch without them, beyond the reach of context words, is skipped.
What is left is searched in batches of bounded size, whatever the length of the document.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from finetune.data.privacy.engine import Finding
from finetune.data.privacy.secrets import PRIVATE_KEY

SEPARATOR = "\n\x00\n"
"""Stands between pieces; no pattern crosses it, since NUL is neither space, letter nor digit."""
REACH = 160
"""Characters kept on both sides of a trigger: the longest context and the part of a value before its first digit."""
MAX_PIECE = 60_000
OVERLAP = 16_000
"""A longer piece is cut into overlapping ones; a finding belongs to the piece in whose middle it starts."""
MAX_BATCH = 120_000
_TRIGGER = re.compile(
    rf"[0-9@]|{PRIVATE_KEY}|[\[({{]\s?[aA][tT]\s?[\])}}]|[A-Za-z]=(?=[^\s=]{{6}})"
    r"|AKIA|ASIA|ABIA|ACCA|gh[pousr]_|github_pat_|glpat-|xox[abposr]-|[srp]k_|AIza|sk-|hf_|npm_|pypi-|SG\.|eyJ",
    re.DOTALL,
)


def search(text: str, analyze: Callable[[str], list[Finding]]) -> list[Finding]:
    """Return what `analyze` finds in the text, at its places in the whole text, in no order."""
    findings: list[Finding] = []
    for batch in _batches(list(_cut(text))):
        joined = SEPARATOR.join(text[start:end] for start, end, _, _ in batch)
        at = 0
        starts = []
        for start, end, _, _ in batch:
            starts.append(at)
            at += end - start + len(SEPARATOR)
        findings.extend(_placed(analyze(joined), batch, starts))
    return findings


def _placed(found: list[Finding], batch: list[tuple[int, int, int, int]], starts: list[int]) -> Iterator[Finding]:
    """Move findings from a batch to the whole text; what starts outside its piece's own part is another piece's."""
    from bisect import bisect_right

    for one in found:
        number = bisect_right(starts, one.start) - 1
        start, end, own_start, own_end = batch[number]
        shift = start - starts[number]
        if own_start <= one.start + shift < own_end and one.end + shift <= end:
            yield replace(one, start=one.start + shift, end=one.end + shift)


def _cut(text: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield pieces: start, end, and the part in which a finding must start to be this piece's."""
    for start, end in _regions(text):
        if end - start <= MAX_PIECE:
            yield start, end, start, end
            continue
        at = start
        while True:
            stop = min(at + MAX_PIECE, end)
            own_start = start if at == start else at + OVERLAP // 2
            yield at, stop, own_start, end if stop == end else stop - OVERLAP // 2
            if stop == end:
                break
            at = stop - OVERLAP


def _regions(text: str) -> Iterator[tuple[int, int]]:
    """Yield the stretches around triggers, widened to white space, merged where they touch."""
    current: tuple[int, int] | None = None
    at = 0
    while found := _TRIGGER.search(text, at):
        start, end = _widen(text, found.start() - REACH, found.end() + REACH)
        if current is not None and start <= current[1]:
            current = (current[0], max(end, current[1]))
        else:
            if current is not None:
                yield current
            current = (start, end)
        at = max(found.end(), current[1] - REACH)  # Triggers before that add nothing to this stretch.
    if current is not None:
        yield current


def _widen(text: str, start: int, end: int) -> tuple[int, int]:
    """Move both ends outwards to white space, by at most as much again, so that no word is cut."""
    start, end = max(start, 0), min(end, len(text))
    limit = max(start - REACH, 0)
    while start > limit and not text[start - 1].isspace():
        start -= 1
    limit = min(end + REACH, len(text))
    while end < limit and not text[end].isspace():
        end += 1
    return start, end


def _batches(pieces: list[tuple[int, int, int, int]]) -> Iterator[list[tuple[int, int, int, int]]]:
    batch: list[tuple[int, int, int, int]] = []
    size = 0
    for piece in pieces:
        length = piece[1] - piece[0]
        if batch and size + length > MAX_BATCH:
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += length
    if batch:
        yield batch
