"""What decides an adapter, and how two runs differ in it: options of the configuration, and contents of files."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from finetune.config import FINGERPRINTED, RunConfig

_WITHOUT_EFFECT = {
    "data": ("cache", "cache_dir", "contamination_paths", "contamination_words", "max_contaminated_share"),
    "training": ("keep_checkpoints", "on_save_error", "save_steps"),
}
"""Options of these sections that leave the adapter as it is."""

_LONG_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b")

Contents = Mapping[str, str]
"""Digests of what the options refer to, by field: rows, base weights, tokenizer, chat template."""


@dataclass(frozen=True, slots=True)
class Change:
    """A field that differs between the run in a folder and the present one."""

    field: str
    old: object
    new: object

    def __str__(self) -> str:
        return _LONG_DIGEST.sub(r"\1…", f"{self.field}: {self.old} there, {self.new} here")

    def is_named(self, names: Iterable[str]) -> bool:
        """Whether one of the names is this field or a section that it belongs to."""
        return any(self.field == name or self.field.startswith(f"{name}.") for name in names)


def plain(value: Any) -> Any:
    """Return configuration values as JSON and YAML know them: enums by name, dataclasses as mappings."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def plain_config(config: RunConfig) -> dict[str, Any]:
    """Return the whole configuration as nested plain values."""
    return plain(asdict(config))


def fingerprint(config: RunConfig, contents: Contents | None = None) -> str:
    """Return the SHA-256 of all that decides the adapter, in hexadecimal."""
    given = plain_config(config)
    covered = {name: _deciding(name, given[name]) for name in FINGERPRINTED}
    return hashlib.sha256(json.dumps(covered | {"contents": dict(contents or {})}, sort_keys=True).encode()).hexdigest()


def _deciding(section: str, value: Any) -> Any:
    """Leave out what has no effect on the adapter."""
    if not isinstance(value, dict):
        return value
    return {key: inner for key, inner in value.items() if key not in _WITHOUT_EFFECT.get(section, ())}


def option_changes(stored: Mapping[str, Any], config: RunConfig) -> Iterator[Change]:
    """Name each option that differs between a stored configuration and `config`."""
    new = plain_config(config)
    for section in FINGERPRINTED:
        before = dict(_flat(section, _deciding(section, stored.get(section))))
        after = dict(_flat(section, _deciding(section, new[section])))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                yield Change(key, before.get(key), after.get(key))


def content_changes(stored: Mapping[str, Any], contents: Contents) -> Iterator[Change]:
    """Name each content that differs from the stored one; what is known of one side only is not compared."""
    before = stored.get("contents") or {}
    for field in sorted(before.keys() & contents.keys()):
        if before[field] != contents[field]:
            yield Change(field, before[field], contents[field])


def listed(changes: Sequence[Change], limit: int = 6) -> str:
    """Write the first changes in a line."""
    rest = f"; and {len(changes) - limit} more" if len(changes) > limit else ""
    return "; ".join(str(change) for change in changes[:limit]) + rest


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}", inner)
    else:
        yield prefix, value
