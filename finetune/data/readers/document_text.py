"""What the readers of .pdf, .docx and .html share: the budget of text, the deadline, and how a document is refused."""

import re
import signal
import time

SECONDS_PER_STEP = 8.0
"""Of processor time, for a page of a .pdf, or a whole .docx or .html."""
_SECONDS = 10.0
_BYTES_PER_SECOND = 20_000
"""A whole document may take `_SECONDS` and its size over this rate."""


class Refused(Exception):
    """The document cannot be used; carries the ledger's reason and a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Text:
    """The text found so far, within the budget."""

    def __init__(self, max_bytes: int) -> None:
        self._parts: list[str] = []
        self._max_bytes = max_bytes
        self.num_bytes = 0

    def add(self, part: str) -> None:
        self.num_bytes += len(part) if part.isascii() else len(part.encode("utf-8", errors="replace"))
        if self.num_bytes > self._max_bytes:
            raise Refused("too_long", f"more than data.max_line_bytes={self._max_bytes} bytes of text; split it")
        self._parts.append(part)

    def whole(self) -> str:
        return "".join(self._parts)


def tidy(text: str) -> str:
    """One space between words, no space around lines, at most one blank line; tabs between cells stay."""
    text = re.sub(r"[ \u00a0\r\f\v]+", " ", text)
    text = re.sub(r" ?\t[ \t]*", "\t", text)
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", re.sub(r"[ \t]*\n[ \t]*", "\n", text)).strip() + "\n"


class Deadline:
    """Ends the process when a step, or the whole document, takes too long; works inside C code, too."""

    def __init__(self, size: int) -> None:
        self._end = time.process_time() + _SECONDS + size / _BYTES_PER_SECOND

    def next_step(self) -> None:
        left = min(SECONDS_PER_STEP, self._end - time.process_time())
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, max(left, 0.001))


def named(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
