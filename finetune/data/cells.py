"""Cells of a row as text, and the exception that rejects a row; used by the formats and the mapping templates."""

import ast
import difflib
import json
import math
from collections.abc import Iterable, Mapping


class RowProblem(Exception):
    """A row cannot be used; formats.py turns it into a `Rejection`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def find_column(values: Iterable[str], *names: str) -> str | None:
    """Return the column that is called like the first of `names` that is there; capitals do not matter."""
    by_folded: dict[str, str] = {}
    for column in values:
        by_folded.setdefault(str(column).strip().lower(), column)
    return next((by_folded[name] for name in names if name in by_folded), None)


def needed_text(values: Mapping[str, object], *names: str, what: str) -> str:
    """Return the text of the first column of `names` that is there.

    Raises:
        RowProblem: missing_column, null, or wrong_type (a list or an object).
    """
    column = find_column(values, *names)
    if column is None:
        raise RowProblem("missing_column", f"no column {' or '.join(map(repr, names))} for the {what}")
    value = values[column]
    if is_null(value):
        raise RowProblem("null", f"{column!r} is null")
    if isinstance(value, (list, tuple, dict)):
        raise RowProblem("wrong_type", f"{column!r} is {type_name(value)}, not text")
    return cell_text(value)


def optional_text(values: Mapping[str, object], *names: str) -> str:
    """Return the text of a column that may be missing or null, else ""."""
    column = find_column(values, *names)
    return "" if column is None else cell_text(values[column])


def is_null(value: object) -> bool:
    """Whether a cell holds nothing: None, or the NaN that tables write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def cell_text(value: object) -> str:
    """Write a cell as text: null is empty, a list's items stand on lines of their own, an object is JSON."""
    if is_null(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return "\n".join(cell_text(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        raise RowProblem("wrong_type", "bytes, not text")
    return str(value)


def template_text(value: object) -> str:
    """Like `cell_text`; a string that is wholly a list of strings ("['a', 'b']") counts as that list."""
    items = list_in_string(value) if isinstance(value, str) else None
    return cell_text(value if items is None else items)


def list_in_string(text: str) -> list[str] | None:
    """Return the strings of a Python or JSON list written into one cell, or None where the text is no such list."""
    stripped = text.strip()
    if not (stripped.startswith("[") and stripped.endswith("]")):
        return None
    try:
        value = ast.literal_eval(stripped)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return None


def type_name(value: object) -> str:
    """Name a value's type as a user knows it from JSON."""
    names = {dict: "an object", list: "a list", tuple: "a list", str: "text", bool: "a boolean", bytes: "bytes"}
    return names.get(type(value), "null" if value is None else "a number")


def nearest_column(name: str, columns: Iterable[str]) -> str:
    """Return " Did you mean '…'?" for the nearest column, whatever its capitals, or ""."""
    by_folded = {str(column).lower(): column for column in columns}
    nearest = difflib.get_close_matches(name.strip().lower(), by_folded, n=1, cutoff=0.5)
    return f" Did you mean {by_folded[nearest[0]]!r}?" if nearest else ""
