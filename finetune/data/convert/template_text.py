r"""The mapping templates `data.prompt` and `data.completion`: `{column}` is replaced by the row's cell.

Whatever stands between two braces is a column's name, matched whole. `\n` is a newline, `\t` a tab (`\\n` a backslash
and an n), `{{` and `}}` are braces. Called by formats.py and read.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from finetune.data.convert.cells import RowProblem, is_null, nearest_column, template_text
from finetune.errors import DataError

OPTIONS = "options"
"""Name that stands for the lettered options in a template of format `choices`."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a template: literal text, or the name of a column."""

    text: str
    is_column: bool


@lru_cache(maxsize=32)
def parse_template(template: str, option: str) -> tuple[Part, ...]:
    """Split a template into literal text and columns. `option` is its configuration key, for errors.

    Raises:
        DataError: a brace is never closed, or two braces stand side by side around nothing.
    """
    parts: list[Part] = []
    literal: list[str] = []
    place = 0
    while place < len(template):
        pair = template[place : place + 2]
        if template[place : place + 3] in ("\\\\n", "\\\\t"):
            literal.append("\\" + template[place + 2])
            place += 3
        elif pair in _PAIRS:
            literal.append(_PAIRS[pair])
            place += 2
        elif template[place] == "{":
            end = template.find("}", place)
            if end < 0 or end == place + 1:
                what = "is never closed" if end < 0 else "names no column"
                raise DataError(
                    f"{option}: the brace at character {place + 1} of {template!r} {what}; write {{{{ for a brace"
                )
            parts += [Part("".join(literal), False), Part(template[place + 1 : end], True)]
            literal = []
            place = end + 1
        else:
            literal.append(template[place])
            place += 1
    parts.append(Part("".join(literal), False))
    return tuple(part for part in parts if part.text)


_PAIRS = {"{{": "{", "}}": "}", "\\n": "\n", "\\t": "\t"}


def check_columns(template: str, option: str, columns: Sequence[str], path: str, *, extra: Sequence[str] = ()) -> None:
    """Check that each column the template names is a column of the file; `extra` names are known besides.

    Raises:
        DataError: it is not; names the column, the file, the nearest column and all columns.
    """
    for part in parse_template(template, option):
        if part.is_column and part.text not in columns and part.text not in extra:
            raise DataError(
                f"{option}: {path} has no column {part.text!r}.{nearest_column(part.text, columns)} "
                f"Columns: {', '.join(columns)}"
            )


def fill_template(
    template: str, option: str, values: Mapping[str, object], extra: Mapping[str, str] | None = None
) -> str:
    """Replace the columns of a template by a row's cells; `extra` values stand in for columns the row lacks.

    Raises:
        RowProblem: the row lacks a column, or all cells that the template names are null or empty: what is left are
            the template's own words (for `data.completion` the reason is then empty_answer).
    """
    texts: list[str] = []
    named: list[str] = []
    num_null = num_filled = 0
    for part in parse_template(template, option):
        if not part.is_column:
            texts.append(part.text)
        elif extra is not None and part.text in extra:
            texts.append(extra[part.text])
        elif part.text in values:
            value = values[part.text]
            named.append(part.text)
            num_null += is_null(value)
            texts.append(template_text(value))
            num_filled += bool(texts[-1].strip())
        else:
            raise RowProblem("missing_column", f"no column {part.text!r} for {option}")
    if named and num_null == len(named):
        raise RowProblem("null", f"{named[0]!r} is null ({option})")
    if named and not num_filled:
        reason = "empty_answer" if option == "data.completion" else "null"
        raise RowProblem(reason, f"{', '.join(map(repr, dict.fromkeys(named)))}: empty ({option})")
    return "".join(texts)
