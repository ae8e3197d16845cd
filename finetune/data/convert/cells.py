"""Cells of a row as text, and the exception that rejects a row; used by the formats and the mapping templates."""

import ast
import difflib
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache

_LONGEST_LITERAL_CHARACTERS = 500_000
"""A longer cell is not parsed as a Python literal, whose syntax tree takes hundreds of bytes per character."""


class RowProblem(Exception):
    """A row cannot be used; formats.py turns it into a `Rejection`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def find_column(values: Mapping[str, object], *names: str) -> str | None:
    """Return the column that is called like the first of `names` that is there; capitals do not matter.

    A column that is not empty in this row goes before one that is, since the rows of a table have the columns of all.
    """
    by_folded = _columns_by_folded_name(tuple(values))
    found = [by_folded[name] for name in names if name in by_folded]
    return next((column for column in found if not is_empty(values[column])), found[0] if found else None)


@lru_cache(maxsize=256)
def _columns_by_folded_name(columns: tuple[str, ...]) -> dict[str, str]:
    by_folded: dict[str, str] = {}
    for column in columns:
        by_folded.setdefault(str(column).strip().lower(), column)
    return by_folded


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
    return single_text(value, column)


def single_text(value: object, column: str) -> str:
    """Return the text of a cell that is neither a list nor an object; `column` names it in the error.

    Raises:
        RowProblem: wrong_type.
    """
    if isinstance(value, (list, tuple, dict, bytes)):
        raise RowProblem("wrong_type", f"{column!r} is {type_name(value)}, not text")
    return cell_text(value)


def optional_text(values: Mapping[str, object], *names: str) -> str:
    """Return the text of a column that may be missing or null, else ""."""
    column = find_column(values, *names)
    return "" if column is None else cell_text(values[column])


def is_null(value: object) -> bool:
    """Whether a cell holds nothing: None, or the NaN that tables write for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_empty(value: object) -> bool:
    """Whether a cell holds nothing, white space, or a list or object without entries."""
    if isinstance(value, str):
        return not value.strip()
    return is_null(value) or (isinstance(value, (list, tuple, dict)) and not value)


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
    value = _parsed_text(text, "[", "]")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return None


def parsed_cell(value: object) -> object:
    """Return the list or object that a text cell holds, as .csv files do; any other cell stays as it is.

    Lists and objects may be written as JSON, as Python literals, or with numpy's `array([…], dtype=…)` in them, as
    pandas writes nested columns.
    """
    if not isinstance(value, str):
        return value
    for opening, closing in (("[", "]"), ("{", "}")):
        parsed = _parsed_text(value, opening, closing)
        if parsed is not None:
            return parsed
    return value


def _parsed_text(text: str, opening: str, closing: str) -> object:
    """Parse text that stands between two brackets; None where it is neither JSON nor a literal that JSON could hold."""
    stripped = text.strip()
    if not (stripped.startswith(opening) and stripped.endswith(closing)):
        return None
    try:
        return json.loads(stripped)
    except (ValueError, RecursionError):
        pass
    if len(stripped) > _LONGEST_LITERAL_CHARACTERS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backslash in the text may be no Python escape
            tree = ast.parse(stripped, mode="eval")
        return json.loads(json.dumps(ast.literal_eval(_WithoutArrays().visit(tree))))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


class _WithoutArrays(ast.NodeTransformer):
    """Replaces numpy's `array(x, dtype=…)` by x."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "array" and len(node.args) == 1:
            return self.visit(node.args[0])
        return node


def type_name(value: object) -> str:
    """Name a value's type as a user knows it from JSON."""
    names = {dict: "an object", list: "a list", tuple: "a list", str: "text", bool: "a boolean", bytes: "bytes"}
    return names.get(type(value), "null" if value is None else "a number")


def nearest_column(name: str, columns: Iterable[str]) -> str:
    """Return " Did you mean '…'?" for the nearest column, whatever its capitals, or ""."""
    by_folded = {str(column).lower(): column for column in columns}
    nearest = difflib.get_close_matches(name.strip().lower(), by_folded, n=1, cutoff=0.5)
    return f" Did you mean {by_folded[nearest[0]]!r}?" if nearest else ""
