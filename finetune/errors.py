"""The error tree: every mistake that a user can make ends in one of these, printed as one line.

    FinetuneError (exit 1)
    ├── ConfigError (exit 2)
    │   └── RecipeNotFound
    ├── DataError (exit 2)
    ├── ModelError (exit 2)
    ├── RunExists (exit 2)
    │   └── UnfinishedRun
    ├── CheckpointError
    ├── ExportError
    ├── NetworkForbidden (also a ConnectionError, so that libraries use what they have on disk)
    ├── TrainingError
    └── ResourceError
        └── SaveError

A message says what is wrong with the value seen, where it stands, and what to do about it.
"""

import difflib
from collections.abc import Iterable

EXIT_FAILED = 1
EXIT_MISTAKE = 2
EXIT_NO_READER = 141
"""128 + SIGPIPE: what a shell shows for a program whose reader has left."""


class FinetuneError(Exception):
    """Base of all errors that are shown to the user in one line; `exit_code` ends the process."""

    exit_code = EXIT_FAILED
    can_resume = False
    """Whether the same command with `resume=true` goes on; the last line then says so."""


class ConfigError(FinetuneError):
    """A configuration key, value or combination that cannot work."""

    exit_code = EXIT_MISTAKE


class RecipeNotFound(ConfigError):
    """`recipe=` names no recipe."""


class DataError(FinetuneError):
    """The data cannot be read, or too little of it is usable."""

    exit_code = EXIT_MISTAKE


class ModelError(FinetuneError):
    """The base model or an adapter cannot be found, loaded or used as asked."""

    exit_code = EXIT_MISTAKE


class RunExists(FinetuneError):
    """The run folder belongs to another run, or to one that needs `resume=true`."""

    exit_code = EXIT_MISTAKE


class UnfinishedRun(RunExists):
    """The run folder holds this very run, and `resume=true` is all that is missing."""

    can_resume = True


class CheckpointError(FinetuneError):
    """A checkpoint is damaged or does not fit the run."""


class ExportError(FinetuneError):
    """An exported file could not be written, or is not the model that was trained."""


class NetworkForbidden(FinetuneError, ConnectionError):
    """Something asked for the network although `offline=true`."""


class TrainingError(FinetuneError):
    """The training itself went wrong: a loss that is no number, a gradient that vanished."""


class ResourceError(FinetuneError):
    """Too little memory, disk or another resource of the machine."""


class SaveError(ResourceError):
    """A checkpoint or the adapter could not be written; what was saved before is whole."""

    can_resume = True


def one_line(error: BaseException) -> str:
    """Fold an exception's text, causes included where they add something, into a single line."""
    parts: list[str] = []
    current: BaseException | None = error
    while current is not None:
        text = " ".join(str(current).split())
        if text and not any(text in part for part in parts):
            parts.append(text)
        current = current.__cause__
    return ": ".join(parts) or type(error).__name__


def did_you_mean(word: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Say which known names are nearest to `word`, or list a few of them.

    Returns a clause that starts with a space, such as " Did you mean 'nf4'?", or "" when nothing is known.
    """
    names = sorted(set(known))
    plain = word.strip().lower().replace("-", "_")
    ending = [name for name in names if plain and name.lower().endswith(plain)]
    nearest = ending[:limit] or difflib.get_close_matches(plain, names, n=limit, cutoff=0.6)
    nearest = nearest or difflib.get_close_matches(word, names, n=limit, cutoff=0.6)
    if nearest:
        return f" Did you mean {' or '.join(repr(name) for name in nearest)}?"
    if not names:
        return ""
    shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f" Known: {shown}."
