"""Keeps keys and passwords out of messages and run folders. Called by log.py, __main__ and compose."""

import os
import re
from collections.abc import Iterator, Mapping

_TELLING = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|CREDENTIAL", re.IGNORECASE)
_TELLS_A_PLACE = re.compile(r"(PATH|FILE|DIR|URL|SOCK|TOKENIZERS_\w*)$", re.IGNORECASE)
_LEAST_CHARACTERS = 8
_KEYS = re.compile(
    r"(?<![0-9A-Za-z_-])(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{20,}|(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|github_pat_[A-Za-z0-9_]{22,}|glpat-[A-Za-z0-9_-]{20,}|xox[abposr]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35})"
)
_IN_ADDRESS = re.compile(r"(:/{1,2})[^/\s:@'\"]{0,200}:[^/\s@'\"]{1,500}(?=@)")
"""User name and password in a URL, or in one that was taken for a path."""


def secret_values(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the values of environment variables whose names say that they are secret, the longest first."""
    found = {
        value: name
        for name, value in environment.items()
        if _TELLING.search(name) and not _TELLS_A_PLACE.search(name) and len(value) >= _LEAST_CHARACTERS
    }
    return {value: found[value] for value in sorted(found, key=len, reverse=True) if not value.startswith(("/", "~"))}


def redact(text: str) -> str:
    """Replace keys, passwords in addresses, and the environment's secrets by what they are."""
    for value, name in secret_values().items():
        text = text.replace(value, f"[{name}]")
    return _KEYS.sub("[key]", _IN_ADDRESS.sub(r"\1[password]", text))


def secret_keys(values: object, key: str = "") -> Iterator[str]:
    """Yield the dotted key of each text in nested values that holds a secret."""
    if isinstance(values, Mapping):
        for name, inner in values.items():
            yield from secret_keys(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for inner in values:
            yield from secret_keys(inner, key)
    elif isinstance(values, str) and redact(values) != values:
        yield key
