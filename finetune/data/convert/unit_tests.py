"""Unit tests that stand beside a row's code, under the names that code benchmarks give them. Called by formats.py."""

import re
from collections.abc import Mapping

from finetune.data.convert.cells import cell_text, find_column, is_null, optional_text, parsed_cell

_TEST_COLUMNS = ("tests", "test_list", "test")
_SETUP_COLUMNS = ("test_setup_code", "test_imports")
_ENTRY_COLUMN = "entry_point"
_IS_TEST = re.compile(r"^\s*assert\b|\bself\.assert\w+\(", re.MULTILINE)


def read_tests(values: Mapping[str, object]) -> tuple[tuple[str, ...], str | None]:
    """Return the row's unit tests and the name of the function that they test; () where it has none.

    A column of such a name counts if an assertion of Python stands in it: a list of statements (MBPP, this project's
    code set) or the text of a test file (HumanEval).
    """
    column = find_column(values, *_TEST_COLUMNS)
    if column is None or is_null(values[column]):
        return (), None
    cell = parsed_cell(values[column])
    tests = tuple(text for text in (cell if isinstance(cell, list | tuple) else (cell,)) if isinstance(text, str))
    if not any(_IS_TEST.search(text) for text in tests):
        return (), None
    setup = [cell_text(values[name]) for name in (find_column(values, wanted) for wanted in _SETUP_COLUMNS) if name]
    entry = optional_text(values, _ENTRY_COLUMN).strip()
    return (*(text for text in setup if text.strip()), *tests), entry if entry.isidentifier() else None
