"""What a recipe file may say: it is data, whoever wrote it. Called by recipes.py, overrides.py and compose.py.

Plain YAML without tags or aliases, the configuration's own keys, and `${key}` as the only thing that is worked out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError, did_you_mean, one_line
from finetune.overrides import GROUPS, group_options, nearest_key, schema_types

MOST_BYTES = 64_000
MOST_DEPTH = 8
MOST_CHARACTERS = 20_000
"""Length of a value with all that it refers to written out."""

_REFERENCE = re.compile(r"(\\*)\$\{([^${}]*)(\}?)")
_GROUP = re.compile(r"(?:override )?/?(\w+)")


def read_recipe(path: Path) -> dict[str, Any]:
    """Read and check a recipe file.

    Raises:
        ConfigError: it is too large, no plain YAML mapping, has a key that the configuration lacks, or a value that
            would have to be executed.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1).decode("utf-8")
        if len(text.encode()) > MOST_BYTES:
            raise ConfigError(f"recipe {path.name}: has more than {MOST_BYTES:,} bytes; a recipe is a page of YAML")
        content = _parse(text, path.name)
    except OSError as error:
        raise ConfigError(f"recipe {path.name}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"recipe {path.name}: not valid YAML: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"recipe {path.name}: must be a mapping such as 'training: {{num_epochs: 2}}'")
    problems = [*_check_defaults(content.get("defaults")), *_check_keys(content, "")]
    problems += reference_problems(dict(_strings({key: content[key] for key in content if key != "defaults"})))
    if problems:
        raise ConfigError(f"recipe {path.name}: {'; '.join(problems[:5])}")
    return content


def _parse(text: str, name: str) -> object:
    """Build the YAML's plain values, after its events have shown that they are few and not made of each other."""
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"recipe {name}: YAML aliases (*{event.anchor}) are not taken; write the value out")
            if isinstance(event, yaml.NodeEvent) and (getattr(event, "tag", None) or "").startswith(("!", "tag:")):
                raise ConfigError(f"recipe {name}: YAML tags ({event.tag}) are not taken; a recipe is plain data")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise ConfigError(f"recipe {name}: is nested more than {MOST_DEPTH} levels deep")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise ValueError(f"{where}{getattr(error, 'problem', None) or type(error).__name__}") from None


def _check_defaults(defaults: object) -> Iterator[str]:
    """Only options of the configuration's own groups can be chosen."""
    if defaults is None:
        return
    shown = "write '- override /model: embedded'"
    if not isinstance(defaults, list):
        yield f"defaults: must be a list; {shown}"
        return
    for entry in defaults:
        if entry == "_self_":
            continue
        key, value = next(iter(entry.items())) if isinstance(entry, dict) and len(entry) == 1 else (entry, None)
        match = _GROUP.fullmatch(str(key))
        if not isinstance(entry, dict) or match is None or match[1] not in GROUPS:
            yield f"defaults: {str(key)[:80]!r} is none of the groups {', '.join(GROUPS)}; {shown}"
        elif value not in (options := group_options(match[1])):
            yield f"defaults: there is no {match[1]} {str(value)[:80]!r}.{did_you_mean(str(value), options)}"


def _check_keys(section: Mapping[Any, Any], prefix: str) -> Iterator[str]:
    types = schema_types()
    for name, value in section.items():
        key = f"{prefix}{name}"
        if key in ("defaults", "recipe"):
            continue
        if key not in types:
            yield f"{key[:80]}: there is no such option.{nearest_key(key, types)}"
        elif isinstance(value, dict) and any(known.startswith(f"{key}.") for known in types):
            yield from _check_keys(value, f"{key}.")


def _strings(value: object, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts in nested values, by dotted key."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _strings(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _strings(inner, f"{key}[{number}]")
    elif isinstance(value, str):
        yield key, value


def references(text: str) -> list[str]:
    """Return what the `${…}` of a value name; one behind a backslash is text."""
    return [match[2] + ("" if match[3] else "${") for match in _REFERENCE.finditer(text) if len(match[1]) % 2 == 0]


def reference_problems(values: Mapping[str, str]) -> list[str]:
    """Say which values refer to anything but keys of the configuration, to themselves, or to far too much."""
    known = schema_types()
    for key, text in values.items():
        foreign = [name for name in references(text) if name not in known]
        if foreign:
            return [
                f"{key}: only ${{key}} of an option of the configuration is worked out, not ${{{foreign[0][:60]}}}; "
                "nothing of the environment or of files is read by a recipe"
            ]
    lengths: dict[str, int | None] = {}

    def length(key: str) -> int:
        if key in lengths:
            known_length = lengths[key]
            return MOST_CHARACTERS + 1 if known_length is None else known_length
        lengths[key] = None
        total = len(values.get(key, "")) + sum(length(name) for name in references(values.get(key, "")))
        lengths[key] = min(total, MOST_CHARACTERS + 1)
        return lengths[key] or 0

    return [f"{key}: refers to itself, or to far too much text" for key in values if length(key) > MOST_CHARACTERS]


def check_references(values: Any) -> None:
    """Check a composed configuration before anything in it is worked out.

    Raises:
        ConfigError: naming the value that refers to what it may not.
    """
    problems: Sequence[str] = reference_problems(dict(_strings(values)))
    if problems:
        raise ConfigError("; ".join(problems[:5]))
