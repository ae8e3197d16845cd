"""Mapping templates: what stands between braces is a column's name."""

import warnings

import pytest

from finetune.data.convert.cells import RowProblem, cell_text, list_in_string, parsed_cell
from finetune.data.convert.template_text import check_columns, fill_template
from finetune.errors import DataError


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("Law? {Governing Law-Answer}", {"Governing Law-Answer": "Israel"}, "Law? Israel"),
        ("{a.b}{x[0]}{Size: cm}{!r}", {"a.b": 1, "x[0]": 2, "Size: cm": 3, "!r": 4}, "1234"),
        (r"{a}\n\t{b}\\n", {"a": "x", "b": r"\n"}, "x\n\t" + r"\n\n"),
        ("{{a}} {a} }", {"a": "x"}, "{a} x }"),
        ("{a}", {"a": ["x", "y"]}, "x\ny"),
        ("{a}", {"a": "['x', \"it's\"]"}, "x\nit's"),
        ("{a}|{b}", {"a": "[]", "b": "text"}, "|text"),
        ("{a}", {"a": "[1, 2]"}, "[1, 2]"),
        ("{a}", {"a": "[see above]"}, "[see above]"),
        ("{a}|{b}", {"a": None, "b": 2.5}, "|2.5"),
        ("{a}", {"a": {"k": "é"}}, '{"k": "é"}'),
        (r"C:\temp {a} \frac", {"a": True}, "C:\temp True " + r"\frac"),
    ],
)
def test_filling(template: str, values: dict[str, object], expected: str) -> None:
    assert fill_template(template, "data.prompt", values) == expected


def test_a_cell_with_braces_is_not_filled_again() -> None:
    assert fill_template("{a}", "data.prompt", {"a": "{b} {{c}}", "b": "no"}) == "{b} {{c}}"


def test_missing_column_names_nearest_and_all() -> None:
    with pytest.raises(
        DataError, match=r"^data.prompt: f.csv has no column 'question'. Did you mean 'QUESTION'\? "
    ) as e:
        check_columns("{question}", "data.prompt", ["QUESTION", "LONG_ANSWER"], "f.csv")
    assert str(e.value).endswith("Columns: QUESTION, LONG_ANSWER")


def test_column_names_are_matched_as_they_stand() -> None:
    with pytest.raises(DataError, match="has no column ' a'"):
        check_columns("{ a}", "data.prompt", ["a"], "f.csv")


@pytest.mark.parametrize(("template", "what"), [("Q: {a", "is never closed"), ("x{}", "names no column")])
def test_broken_braces(template: str, what: str) -> None:
    with pytest.raises(DataError, match=f"^data.prompt: the brace at character .* {what}; write {{{{ for a brace"):
        check_columns(template, "data.prompt", ["a"], "f.csv")


def test_rows_lacking_a_column_or_all_cells_are_problems() -> None:
    with pytest.raises(RowProblem) as missing:
        fill_template("{a}", "data.prompt", {})
    with pytest.raises(RowProblem) as null:
        fill_template("{a}{b}", "data.prompt", {"a": None, "b": float("nan")})
    assert (missing.value.reason, null.value.reason) == ("missing_column", "null")


@pytest.mark.parametrize(("option", "reason"), [("data.prompt", "null"), ("data.completion", "empty_answer")])
def test_rows_that_leave_only_the_templates_own_words(option: str, reason: str) -> None:
    with pytest.raises(RowProblem, match=r"^'a', 'b': empty \(data") as problem:
        fill_template("Which law? {a} {b} {a}", option, {"a": " ", "b": "[]"})
    assert problem.value.reason == reason
    assert fill_template("Which law? {a} {b}", option, {"a": "", "b": "Israel"}) == "Which law?  Israel"


def test_nested_lists_and_lists_in_strings() -> None:
    assert cell_text([["a", "b"], "c", None]) == "a\nb\nc\n"
    assert list_in_string("['a'") is None
    assert list_in_string("[__import__('os')]") is None
    assert list_in_string('["a", "b\\n"]') == ["a", "b\n"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("[{'a': \"it's\", 'b': None}]", [{"a": "it's", "b": None}]),
        ("{'text': array(['a (b)'], dtype=object), 'start': array([5])}", {"text": ["a (b)"], "start": [5]}),
        ("[see above]", "[see above]"),
        ("{1, 2}", "{1, 2}"),
        ("[open('x')]", "[open('x')]"),
        ("[" * 100_000 + "]" * 100_000, "[" * 100_000 + "]" * 100_000),
        ("['" + "a" * 600_000 + "']", "['" + "a" * 600_000 + "']"),
        (" text ", " text "),
        (["x"], ["x"]),
        (7, 7),
    ],
)
def test_lists_and_objects_written_into_a_cell(cell: object, expected: object) -> None:
    assert parsed_cell(cell) == expected


def test_backslashes_in_a_cell_warn_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list_in_string(r"['C:\data \d']") == [r"C:\data \d"]
