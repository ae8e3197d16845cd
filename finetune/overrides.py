"""The command line's `key=value` words: checked against the schema and put into Hydra's grammar.

Standard library only, so that a typing mistake is answered in a fraction of a second.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from finetune.config import AUTO, RunConfig
from finetune.errors import ConfigError, did_you_mean

GROUPS = ("model", "data", "adapter", "quantization", "training", "evaluation", "export", "tracking")
CONF_DIR = Path(__file__).resolve().parent / "conf"
_WORD = re.compile(r"(?P<prefix>\+\+|\+|~)?(?P<key>[^=\s'\"]+?)(?:=(?P<value>.*))?", re.DOTALL)
_TRUTH = frozenset(("true", "false", "yes", "no", "on", "off", "1", "0"))


@dataclass(frozen=True, slots=True)
class Override:
    """One `key=value` word, taken apart. `value` is the text as typed."""

    prefix: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.prefix}{self.key}={self.value}"


@functools.cache
def schema_types() -> dict[str, Any]:
    """Return the type of every key of a run, sections included, by dotted key."""
    return dict(_walk(RunConfig, ""))


def _walk(section: type, prefix: str) -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(section)
    for item in fields(section):  # type: ignore[arg-type]
        kind = hints[item.name]
        yield prefix + item.name, kind
        inner = _without_none(kind)
        if is_dataclass(inner) and isinstance(inner, type):
            yield from _walk(inner, f"{prefix}{item.name}.")


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        return next(part for part in get_args(kind) if part is not type(None))
    return kind


def group_options(group: str) -> list[str]:
    """Return the names that `group=` can take."""
    return sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))


def parse(words: Sequence[str]) -> list[Override]:
    """Take words apart.

    Raises:
        ConfigError: for a word without `=`; naming what it may have meant.
    """
    overrides: list[Override] = []
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None or match["value"] is None or match["prefix"] == "~":
            hint = did_you_mean(word, schema_types()) if re.fullmatch(r"[\w.]+", word) else ""
            raise ConfigError(f"{word!r} is no key=value.{hint} Only the first word can be a command; see --help")
        overrides.append(Override(match["prefix"] or "", match["key"], match["value"]))
    return overrides


def check(overrides: Iterable[Override], *, sweep: bool = False) -> list[Override]:
    """Check keys and values against the schema and return them in Hydra's grammar.

    Values of text fields are taken literally. With `sweep`, `a,b` stands for several runs.

    Raises:
        ConfigError: naming every unknown key, group option and value of a wrong type at once.
    """
    types = schema_types()
    overrides = list(overrides)
    named = [override.value for override in overrides if override.key == "recipe"]
    problems = [f"recipe is given twice ({named[0]} and {named[1]}); choose one"] if len(named) > 1 else []
    checked: list[Override] = []
    for override in overrides:
        value, problem = _check_one(override, types, sweep)
        if problem:
            problems.append(problem)
        checked.append(Override("", override.key, value))
    if problems:
        raise ConfigError("; ".join(problems))
    return checked


def _check_one(override: Override, types: Mapping[str, Any], sweep: bool) -> tuple[str, str]:
    key, value = override.key, override.value
    if key == "recipe":
        return value, ""
    if key in GROUPS:
        return value, _check_group(key, value, sweep)
    if key == "data.sources":
        return value, ""
    if key.partition(".")[0].partition("/")[0].partition("@")[0] == "hydra":
        return value, f"{key}: Hydra's own settings are fixed; a run is described by the options of inspect alone"
    if key not in types:
        return value, f"{key}: there is no such option.{nearest_key(key, types)}"
    kind = types[key]
    literal = _without_none(kind) is str and not (sweep and "," in value)
    foreign = [] if literal else [name for name in re.findall(r"\$\{([^${}]*)", value) if name not in types]
    if foreign:
        return value, f"{key}: only ${{key}} of a known option is worked out, not ${{{foreign[0][:60]}}}"
    if sweep and "," in value and get_origin(_without_none(kind)) is not list:
        return value, ""
    return _check_value(key, value, kind)


def nearest_key(key: str, types: Mapping[str, Any]) -> str:
    """Say which known keys a misspelt one may stand for, as a clause that starts with a space."""
    section, _, name = key.rpartition(".")
    beside = [known for known in types if known.startswith(f"{section}.")] if section in types else []
    near = [f"{section}.{word}" for word in difflib.get_close_matches(name, [k.rpartition(".")[2] for k in beside])]
    same_name = [known for known in types if known.rpartition(".")[2] == name]
    same_name = [known for known in same_name if known.count(".") == min(other.count(".") for other in same_name)]
    if near or same_name:
        return f" Did you mean {' or '.join(repr(known) for known in dict.fromkeys((*same_name, *near)))}?"
    return did_you_mean(key, beside or [*types, *GROUPS, "recipe"])


def _check_group(group: str, value: str, sweep: bool) -> str:
    options = group_options(group)
    for choice in value.split(",") if sweep else [value]:
        if choice.strip() in options:
            continue
        if "/" in choice or "\\" in choice or choice.startswith("~"):
            alone = {"model": "model=local model.path=", "adapter": "adapter.path=", "data": "data.path="}
            cure = f" For a folder or file write {alone[group]}{choice}" if group in alone else ""
            return f"{group}={choice}: a group takes a name, not a path.{cure}"
        return f"{group}={choice}: there is no such {group}.{did_you_mean(choice, options)}"
    return ""


def _check_value(key: str, value: str, kind: Any) -> tuple[str, str]:
    inner = _without_none(kind)
    if value == "null" and type(None) in get_args(kind):
        return value, ""
    if get_origin(kind) in (Union, UnionType) and str in get_args(kind) and inner is not str:  # a number or a word
        bare = _unquoted(value)
        problem = "" if bare == AUTO or "${" in bare else _scalar_problem(key, bare, inner)
        return bare, f"{problem.replace(' or ', ', ')} or {AUTO}" if problem else ""
    if inner is str:
        return quote(value), ""
    if "${" in value or is_dataclass(inner):
        return value, ""
    if get_origin(inner) is list:
        return _check_list(key, value, get_args(inner)[0])
    bare = _unquoted(value)
    return bare, _scalar_problem(key, bare, inner)


def _check_list(key: str, value: str, element: Any) -> tuple[str, str]:
    text = _unquoted(value).strip()
    text = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    items = [_unquoted(item.strip()) for item in text.split(",") if item.strip()]
    problems = [problem for item in items if (problem := _scalar_problem(key, item, element))]
    quoted = [quote(item) if element is str else item for item in items]
    return f"[{','.join(quoted)}]", "; ".join(problems)


def _scalar_problem(key: str, text: str, kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        names = [member.name for member in kind]
        return "" if text in names else f"{key}: {text!r} is unknown.{did_you_mean(text, names)}"
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind)
    if wanted is None:
        return ""
    try:
        valid = text.lower() in _TRUTH if kind is bool else kind(text) is not None
    except ValueError:
        valid = False
    return "" if valid else f"{key}: {text!r} is not {wanted}"


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


def quote(value: str) -> str:
    """Write `value` as a quoted string of Hydra's grammar; only `${key}` of a known key stays an interpolation."""
    known = schema_types()

    def keep_or_escape(match: re.Match[str]) -> str:
        return match[0] if match[2] and match[1] in known else "\\" + match[0]

    text = re.sub(r"\$\{([^}]*)(\}?)", keep_or_escape, _unquoted(value))
    # In the grammar a backslash is special only before a quote or at the end of the string.
    text = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", text)
    trailing = len(text) - len(text.rstrip("\\"))
    return f"'{text}{chr(92) * trailing}'"
