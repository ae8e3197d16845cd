"""Readers: every kind of file, and every way in which a file is broken."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from finetune.data.load import RawRow, is_hub_id, read_rows
from finetune.errors import DataError
from finetune.records import Rejection

Write = Callable[..., str]


def rows_of(path: str) -> list[tuple[str, dict[str, object]]]:
    rows = list(read_rows(path))
    assert all(isinstance(row, RawRow) for row in rows)
    return [(row.source, row.values) for row in rows if isinstance(row, RawRow)]


def test_jsonl_with_bom_crlf_and_blank_lines_keeps_physical_line_numbers(write: Write) -> None:
    path = write("rows.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n  \r\n{"a": "\xe2\x80\xa8x"}')
    assert rows_of(path) == [("rows.jsonl:1", {"a": 1}), ("rows.jsonl:4", {"a": "\u2028x"})]


def test_jsonl_rejects_lines_that_are_no_objects_or_not_utf8(write: Write) -> None:
    rows = list(read_rows(write("rows.jsonl", b'{"a": 1}\n[1]\n{"a": "\xff"}\nnull\n')))
    assert [(row.source, row.reason) for row in rows if isinstance(row, Rejection)] == [
        ("rows.jsonl:2", "wrong_type"),
        ("rows.jsonl:3", "encoding"),
        ("rows.jsonl:4", "wrong_type"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 1,}\n', r"^a.jsonl:3: not JSON \(.* at column \d+\)\. Mend or remove that line"),
        ("a.jsonl", '[{"a": 1}]', r"^a.jsonl:1: starts a JSON list, .* Name the file .json"),
        ("a.jsonl", '{"a": ' + "[" * 100_000, r"^a.jsonl:1: cannot be read as JSON \(nested too deeply\)"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', r"^a.json:2: not JSON \(Extra data .* name it .jsonl"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', r"^a.json:2: not JSON \(Expecting ':' delimiter at column 7\)\. Mend"),
        ("a.json", '{"a": 1, "b": "x"}', r"^a.json: holds one JSON object with the keys a, b; expected a list"),
        ("a.json", '{"a": [1], "b": [2]}', r"^a.json: holds one JSON object with the keys a, b; expected a list"),
        ("a.json", "3", r"^a.json: holds one JSON number; expected a list"),
        ("a.json", "   \n", r"^a.json: the file is empty"),
        ("a.json", "[]", r"^a.json: holds no rows"),
        ("a.json", b'[{"a": "\n\xe4"}]', r"^a.json:2: not UTF-8 \(byte 0xe4 at offset 9 .*iconv"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), r"^a.jsonl:1: UTF-16, not UTF-8 .*iconv -f UTF-16"),
        ("a.csv", "a,b\n1,caf\xe9\n".encode("latin-1"), r"^a.csv:2: not UTF-8 \(byte 0xe9 at offset 9 "),
        ("a.csv", "a,b,a\n1,2,3\n", r"^a.csv:1: the header names 'a' more than once"),
        ("a.csv", " ,\n1,2\n", r"^a.csv:1: the header is empty"),
        ("a.csv", 'a,b\n1,2\n3,"open\n4,5\n', r"^a.csv:3: the record that starts here is no CSV \(unexpected end"),
        ("a.csv", "a,b\n", r"^a.csv: holds no rows"),
        ("a.csv", "", r"^a.csv: the file is empty \(0 bytes"),
        ("a.txt", " \n\n", r"^a.txt: the file is empty"),
        ("a.parquet", b"PAR1nonsense", r"^a.parquet: no readable Parquet file"),
        ("a.xlsx", b"PK", r"a.xlsx: cannot read .xlsx. Give a file \(.jsonl .json .csv"),
    ],
)
def test_a_broken_file_is_one_line_that_says_where_and_what_to_do(
    write: Write, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(write(name, content)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sources"),
    [
        ('[{"a": 1}, {"a": 2}]', ["a.json:[0]", "a.json:[1]"]),
        ('{"version": "1", "data": [{"a": 1}]}', ["a.json:[0]"]),
        ('{"x": {"a": 1}, "y": {"a": 2}}', ["a.json:x", "a.json:y"]),
    ],
)
def test_json_lists_keyed_objects_and_wrapped_lists(write: Write, content: str, sources: list[str]) -> None:
    assert [source for source, _ in rows_of(write("a.json", content))] == sources


def test_json_objects_by_id_get_the_id_unless_they_have_one(write: Write) -> None:
    path = write("a.json", json.dumps({"x": {"a": 1}, "y": {"id": "own"}}))
    assert [values["id"] for _, values in rows_of(path)] == ["x", "own"]


def test_json_items_that_are_no_objects_are_rejected_by_place(write: Write) -> None:
    rows = list(read_rows(write("a.json", '[{"a": 1}, "x", {"a": 2}]')))
    assert [(row.source, row.reason) for row in rows if isinstance(row, Rejection)] == [("a.json:[1]", "wrong_type")]


def test_csv_counts_physical_lines_and_reads_quoted_newlines_and_huge_cells(write: Write) -> None:
    huge = "x" * 200_000
    path = write("a.csv", f'\ufeffname,"a, b"\r\nfirst,"one\r\ntwo"\r\n\r\nsecond,{huge}\r\nshort\r\n')
    assert rows_of(path) == [
        ("a.csv:2", {"name": "first", "a, b": "one\r\ntwo"}),
        ("a.csv:5", {"name": "second", "a, b": huge}),
        ("a.csv:6", {"name": "short"}),
    ]


def test_csv_row_with_too_many_cells_is_rejected(write: Write) -> None:
    rows = list(read_rows(write("a.csv", "a,b\n1,2\n1,2,3\n")))
    assert isinstance(rows[1], Rejection)
    assert (rows[1].source, rows[1].reason) == ("a.csv:3", "wrong_type")
    assert "3 cells, but the header names 2" in rows[1].detail


def test_tsv_is_split_at_tabs(write: Write) -> None:
    assert rows_of(write("a.tsv", "a\tb,c\n1\t2\n")) == [("a.tsv:2", {"a": "1", "b,c": "2"})]


def test_parquet_rows_are_counted_from_one(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"q": ["x", None], "l": [["a", "b"], []]}), path)
    assert rows_of(str(path)) == [
        ("a.parquet:1", {"q": "x", "l": ["a", "b"]}),
        ("a.parquet:2", {"q": None, "l": []}),
    ]


def test_text_file_is_one_document_with_newlines_made_plain(write: Write) -> None:
    assert rows_of(write("a.md", b"\xef\xbb\xbfone\r\ntwo\r")) == [("a.md", {"text": "one\ntwo\n"})]


def test_folder_gives_sorted_documents_grouped_by_file(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    write("docs/b.txt", "B")
    write("docs/a/x.md", "X")
    write("docs/.hidden.txt", "no")
    write("docs/.git/y.txt", "no")
    write("docs/bad.txt", b"\xff\xfa")
    folder = Path(write("docs/table.csv", "a\n1\n")).parent
    with caplog.at_level(logging.INFO, logger="finetune.data"):
        rows = list(read_rows(str(folder)))
    assert [row.source for row in rows] == ["a/x.md", "b.txt", "bad.txt"]
    assert isinstance(rows[0], RawRow)
    assert rows[0].values == {"text": "X", "group": "a/x.md"}
    assert isinstance(rows[2], Rejection)
    assert rows[2].reason == "encoding"
    assert "table.csv" in caplog.text


def test_folder_without_documents_names_what_it_holds(write: Write) -> None:
    folder = Path(write("docs/rows.jsonl", [{"a": 1}])).parent
    with pytest.raises(DataError, match=r"no .txt or .md files. It holds rows.jsonl"):
        list(read_rows(str(folder)))


def test_missing_path_names_the_nearest_file(write: Write) -> None:
    path = write("train.jsonl", [{"a": 1}])
    with pytest.raises(DataError, match=r"trian.jsonl: no such file or folder. Did you mean '.*/train.jsonl'\?"):
        list(read_rows(path.replace("train", "trian")))


def test_hub_ids_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert is_hub_id("owner/name-1.0")
    for path in ("data/legal", "owner/rows.jsonl", "a/b/c", "./owner/name", "name", "~/name"):
        assert not is_hub_id(path), path


class DatasetNotFoundError(FileNotFoundError):
    """The name that `datasets` gives it."""


@pytest.mark.parametrize(
    ("error", "offline", "message"),
    [
        (DatasetNotFoundError("Dataset 'o/n' doesn't exist"), False, "no such data set on the hub"),
        (DatasetNotFoundError("Dataset 'o/n' is a gated dataset"), False, "is gated. Accept its terms .*hf auth login"),
        (ConnectionError("no route"), False, "cannot be loaded from the hub. Check the network"),
        (ConnectionError("no route"), True, "not on this machine, and offline=true forbids the download"),
        (ValueError('Unknown split "trian"'), False, r"has no split 'train' \(data.split\)"),
        (ValueError("Config name is missing"), False, r"name it \(data.subset=…\)"),
    ],
)
def test_hub_failures_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, offline: bool, message: str
) -> None:
    def load_dataset(*args: object, **options: object) -> object:
        raise error

    fake = SimpleNamespace(load_dataset=load_dataset, config=SimpleNamespace(HF_HUB_OFFLINE=False))
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=f"^nobody/nothing: .*{message}"):
        list(read_rows("nobody/nothing", offline=offline))


def test_hub_rows_name_their_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(path: str, *, name: str | None, split: str, streaming: bool) -> list[dict[str, object]]:
        assert (path, name, split, streaming) == ("nobody/nothing", "small", "test", False)
        return [{"a": 1}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    rows = list(read_rows("nobody/nothing", subset="small", split="test"))
    assert rows == [RawRow({"a": 1}, "nobody/nothing[test]:1")]
