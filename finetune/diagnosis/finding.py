"""One line of `doctor`: how bad it is, what was found, and what to do about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from finetune.errors import FinetuneError, one_line


class Level(StrEnum):
    """How bad a finding is."""

    ok = "ok"
    warning = "warning"
    """Works, but slower, with other versions than were tested, or not in every case."""
    error = "error"
    """A run would fail, or be wrong."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    level: Level
    subject: str
    """One or two words: `disk`, `bitsandbytes`."""
    text: str
    cure: str = ""
    """What to do; empty where all is well."""

    def line(self) -> str:
        """Write it as one line."""
        said = f"{self.text}; {self.cure}" if self.cure else self.text
        return f"{self.level:7}  {self.subject:15}  {' '.join(said.split())}"


Check = Callable[[], Iterator[Finding]]


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.ok, subject, text)


def warning(subject: str, text: str, cure: str) -> Finding:
    """It works, with a drawback."""
    return Finding(Level.warning, subject, text, cure)


def error(subject: str, text: str, cure: str) -> Finding:
    """A run would fail, or be wrong."""
    return Finding(Level.error, subject, text, cure)


def run_check(subject: str, check: Check) -> Iterator[Finding]:
    """Yield what a check finds; a check that breaks is a finding too, so that the others still run."""
    try:
        yield from check()
    except FinetuneError as problem:
        yield Finding(Level.error, subject, one_line(problem))
    except ModuleNotFoundError as problem:
        yield error(subject, f"not checked: {one_line(problem)}", f"pip install {problem.name}")
    except Exception as problem:  # whatever a broken installation raises is what doctor is there to tell
        yield error(
            subject,
            f"the check failed with {type(problem).__name__}: {one_line(problem)[:300]}",
            "install the versions of requirements.lock again",
        )
