"""Readers: every kind of file, and every way in which a file is broken."""

import gzip
import json
import logging
import re
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
        ("a.jsonl", '[{"a": 1}]', r"^a.jsonl:1: starts a JSON list, .* Name the file .json"),
        ("a.jsonl", '[\n{"a": 1}\n]', r"^a.jsonl:1: starts a JSON list, .* Name the file .json"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', r"^a.json:2: not JSON \(Extra data .* name it .jsonl"),
        ("a.json", '[{"a": 1}]\n\n x', r"^a.json:3: not JSON \(Extra data .* name it .jsonl"),
        ("a.json", '[{"a": 1},\n {"a": "x}]', r"^a.json:2: not JSON \(the file ends inside its list: a missing quote"),
        ("a.json", '{"a": {"b": 1},\n', r"^a.json:2: not JSON \(the file ends inside its object: .* cut short"),
        ("a.json", '[{"a": 1},\n]', r"^a.json:2: not JSON \(a comma before the closing bracket\)\. Mend"),
        ("a.json", '[{"a": 1}\n}', r"^a.json:2: not JSON \('}' closes what another bracket opened\)\. Mend"),
        ("a.json", "\n<html>", r"^a.json:2: not JSON \(Expecting value .*\)\. Mend the file"),
        ("a.json", '{"a": 1, "b": "x"}', r"^a.json: holds one JSON object with the keys a, b; expected a list"),
        ("a.json", '{"a": [1], "b": [2]}', r"^a.json: holds one JSON object with the keys a, b; expected a list"),
        ("a.json", "3", r"^a.json: holds one JSON number; expected a list"),
        ("a.json", "   \n", r"^a.json: the file is empty"),
        ("a.json", "[]", r"^a.json: holds no rows"),
        ("a.json", " [ \n ]\n", r"^a.json: holds no rows"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), r"^a.jsonl:1: UTF-16, not UTF-8 .*iconv -f UTF-16 "),
        ("a.jsonl", '{"a": 1}'.encode("utf-16-le"), r"^a.jsonl:1: UTF-16, not UTF-8 .*iconv -f UTF-16LE "),
        ("a.json", '{"a": 1}'.encode("utf-16"), r"^a.json:1: UTF-16, not UTF-8 .*iconv"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), r"^a.csv:1: UTF-16, not UTF-8 .*iconv"),
        ("a.txt", "text".encode("utf-16-be"), r"^a.txt:1: UTF-16, not UTF-8 .*iconv -f UTF-16BE"),
        ("a.txt", b"one\ntwo\0", r"^a.txt:2: holds a NUL byte"),
        ("a.txt", b"one\ncaf\xe9", r"^a.txt:2: not UTF-8 \(byte 0xe9 at offset 7\)\. .*iconv -f WINDOWS-1252"),
        ("a.csv", b"a,caf\xe9\n1,2\n", r"^a.csv:1: the header cannot be read: .*not UTF-8: byte 0xe9 at column 6"),
        ("a.csv", "a,b,a\n1,2,3\n", r"^a.csv:1: the header names 'a' more than once"),
        ("a.csv", " ,\n1,2\n", r"^a.csv:1: the header is empty"),
        ("a.csv", "a,b\n", r"^a.csv: holds no rows"),
        ("a.csv", "", r"^a.csv: the file is empty \(0 bytes"),
        ("a.txt", " \n\n", r"^a.txt: the file is empty"),
        ("a.parquet", b"PAR1nonsense", r"^a.parquet: no readable Parquet file"),
        ("a.xlsx", b"PK", r"a.xlsx: cannot read .xlsx. Give a file \(.jsonl .json .csv"),
        ("a.tar.gz", b"PK", r"a.tar.gz: cannot read .tar.gz. Give a file \(.jsonl .json .csv"),
        ("a.pdf.gz", b"PK", r"a.pdf.gz: cannot read .pdf inside .gz. Decompress it first"),
        ("a.jsonl.gz", b"PK", r"^a.jsonl.gz: damaged or cut short after 0 .* Write or download it again"),
        ("a.jsonl.zst", b"nonsense", r"^a.jsonl.zst: damaged or cut short after 0 .* Write or download it again"),
        ("a.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:-9], r"^a.csv.gz: damaged or cut short"),
    ],
)
def test_a_broken_file_is_one_line_that_says_where_and_what_to_do(
    write: Write, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        list(read_rows(write(name, content)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "source", "reason", "detail"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 1,}\n', "a.jsonl:3", "wrong_type", r"^not JSON \(.* at column \d+\)$"),
        ("a.jsonl", '{"a": 1}{"a": 2}', "a.jsonl:1", "wrong_type", r"^not JSON \(Extra data at column 9\); is a comma"),
        ("a.jsonl", '{"a": ' + "9" * 5000 + "}", "a.jsonl:1", "wrong_type", "^cannot be read as JSON"),
        ("a.jsonl", b'{"a": "\0"}', "a.jsonl:1", "encoding", "^a NUL byte at column 8; no text"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\x93"}', "a.jsonl:2", "encoding", r"^not UTF-8: byte 0x93 at column 8; .*iconv"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', "a.json:[1]", "wrong_type", r"^not JSON \(.* at line 2 column 6\)$"),
        (
            "a.json",
            '{"a": {"a": 1},\n\n"b":\n{"a" 2}}',
            "a.json:b",
            "wrong_type",
            r"^not JSON \(.* at line 4 column 6\)",
        ),
        ("a.json", '[{"a": 1}\n{"b": 2}]', "a.json:[0]", "wrong_type", r"Extra data at line 2 .*a comma or a newline"),
        ("a.json", b'[\n{"a": "\xe4"}]', "a.json:[0]", "encoding", r"byte 0xe4 at line 2 column 8; save"),
        ("a.csv", b"a,b\n1,caf\xe9\n3,4\n", "a.csv:2", "encoding", r"byte 0xe9 at column 6; .*iconv -f WINDOWS-1252"),
        ("a.csv", b'a,b\n1,"x\n\xe9"\n3,4\n', "a.csv:2", "encoding", r"^line 3: not UTF-8: byte 0xe9 at column 1"),
        ("a.csv", b"a,b\n1,\0\n", "a.csv:2", "encoding", "^a NUL byte at column 3"),
        ("a.csv", 'a,b\n1,2\n3,"open\n4,5\n', "a.csv:3", "wrong_type", r"no CSV \(unexpected end .*; quote cells with"),
        ("a.tsv", 'a\tb\n"1"x\t2\n', "a.tsv:2", "wrong_type", r"no TSV \(.*; quote cells with"),
    ],
)
def test_a_broken_row_is_rejected_and_says_where(
    write: Write, name: str, content: str | bytes, source: str, reason: str, detail: str
) -> None:
    (rejection,) = [row for row in read_rows(write(name, content)) if isinstance(row, Rejection)]
    assert (rejection.source, rejection.reason) == (source, reason)
    assert re.search(detail, rejection.detail), rejection.detail
    assert rejection.content


def test_rows_after_a_missing_quote_are_read(write: Write) -> None:
    rows = list(read_rows(write("a.csv", 'a,b\n1,"open\n2,x\n"3",y\n4,z\n')))
    assert [row.source for row in rows] == ["a.csv:2", "a.csv:3", "a.csv:4", "a.csv:5"]
    assert [row.values["b"] for row in rows if isinstance(row, RawRow)] == ["x", "y", "z"]


def test_spreadsheets_that_write_semicolons_are_read(write: Write) -> None:
    assert rows_of(write("a.csv", "Frage;Antwort\nx, y;z\n")) == [("a.csv:2", {"Frage": "x, y", "Antwort": "z"})]
    assert rows_of(write("b.csv", "a;b,c\n1,2\n")) == [("b.csv:2", {"a;b": "1", "c": "2"})]


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
    folder = Path(write("docs/rows.xlsx", "x")).parent
    with pytest.raises(DataError, match=r"no documents and no data files. It holds rows.xlsx"):
        list(read_rows(str(folder)))


def test_folder_of_data_files_is_one_data_set(write: Write) -> None:
    write("set/part-2.jsonl", [{"a": 2}])
    write("set/part-1.csv", "a\n1\n")
    write("set/README.md", "about the set")
    write("set/dataset_infos.json", "{}")
    folder = Path(write("set/more/rows.json.gz", gzip.compress(b'[{"a": 3}]'))).parent.parent
    assert rows_of(str(folder)) == [
        ("more/rows.json.gz:[0]", {"a": 3}),
        ("part-1.csv:2", {"a": "1"}),
        ("part-2.jsonl:1", {"a": 2}),
    ]


def test_folder_with_files_named_after_splits_gives_the_split_asked_for(write: Write) -> None:
    write("set/train-00000-of-00002.jsonl", [{"a": 1}])
    write("set/train-00001-of-00002.jsonl", [{"a": 2}])
    write("set/test-00000-of-00001.jsonl", [{"a": 3}])
    folder = str(Path(write("set/contest.jsonl", [{"a": 4}])).parent)
    assert [values["a"] for _, values in rows_of(folder)] == [1, 2]
    assert [row.values["a"] for row in read_rows(folder, split="test") if isinstance(row, RawRow)] == [3]
    with pytest.raises(DataError, match=r"named after the splits test, train; none is named 'validation'"):
        list(read_rows(folder, split="validation"))


@pytest.mark.parametrize("packing", [".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"a": "é"}\n{"a": 2}\n'),
        ("a.json", '[{"a": "é"}]'),
        ("a.csv", "a,b\né,2\n"),
        ("a.tsv", "a\tb\né\t2\n"),
        ("a.txt", "text é\n"),
        ("a.md", "# text\n"),
    ],
)
def test_compressed_text_gives_the_same_rows(write: Write, name: str, content: str, packing: str) -> None:
    import pyarrow

    data = content.encode()
    packed = gzip.compress(data) if packing == ".gz" else pyarrow.Codec("zstd").compress(data, asbytes=True)
    plain = [(source.replace(name, name + packing), values) for source, values in rows_of(write(name, data))]
    assert rows_of(write(name + packing, packed)) == plain
    assert rows_of(write("twice/" + name + packing, packed + (packed if name == "a.txt" else b"")))


def test_json_is_cut_alike_wherever_its_blocks_end(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strings, escapes, brackets and white space across the borders of the blocks that are read."""
    rows = [{"a": 'quote " back \\ [{,', "é": [1, {"b": "\\"}], "c": None}, {}, {"a": "]}"}, {"x\\": "\n"}]
    layouts = [json.dumps(rows), json.dumps(rows, indent=1), json.dumps({"v": "[", "data": rows, "w": {"u": 1}})]
    layouts.append(json.dumps({f'i"{number},': row for number, row in enumerate(rows)}, ensure_ascii=False))
    for layout in layouts:
        path = write("a.json", layout)
        whole = rows_of(path)
        assert [{key: cell for key, cell in values.items() if key != "id"} for _, values in whole] == rows
        for size in (1, 2, 3, 7):
            monkeypatch.setattr("finetune.data.readers.json_stream._AT_ONCE", size)
            assert rows_of(path) == whole
        monkeypatch.undo()


def test_one_stray_list_does_not_hide_the_rows_by_id(write: Write) -> None:
    rows: dict[str, object] = {f"id-{number}": {"a": number} for number in range(9)}
    found = list(read_rows(write("a.json", json.dumps(rows | {"stray": [{"a": 1}]}))))
    assert [type(row) for row in found] == [RawRow] * 9 + [Rejection]


def test_arrow_folder_with_and_without_splits(tmp_path: Path) -> None:
    import datasets

    small = datasets.Dataset.from_dict({"q": ["x", None], "l": [["a"], []]})
    small.save_to_disk(tmp_path / "one")
    expected = [{"q": "x", "l": ["a"]}, {"q": None, "l": []}]
    found = rows_of(str(tmp_path / "one"))
    assert [values for _, values in found] == expected
    assert [source for source, _ in found] == [f"one/data-00000-of-00001.arrow:{number}" for number in (1, 2)]
    datasets.DatasetDict({"train": small, "test": small.select([1])}).save_to_disk(tmp_path / "two")
    assert [values for _, values in rows_of(str(tmp_path / "two"))] == expected
    tests = list(read_rows(str(tmp_path / "two"), split="test"))
    assert tests == [RawRow(expected[1], "test/data-00000-of-00001.arrow:1")]
    with pytest.raises(DataError, match=r"has no split 'dev'; it has train, test. Name one \(data.split=…\)"):
        list(read_rows(str(tmp_path / "two"), split="dev"))


@pytest.mark.bar("R13")
def test_arrow_folder_reads_no_file_outside_itself(tmp_path: Path) -> None:
    import datasets

    datasets.Dataset.from_dict({"q": ["x"]}).save_to_disk(tmp_path / "one")
    state = tmp_path / "one/state.json"
    state.write_text(state.read_text().replace("data-00000", "../one/data-00000"))
    with pytest.raises(
        DataError, match=r"one/state.json: names '../one/data-00000.*', which is no file of this folder"
    ):
        list(read_rows(str(tmp_path / "one")))


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


def test_a_hub_row_beyond_the_limit_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, object]] = [{"a": "short"}, {"a": "x" * 600, "b": [{"c": "y" * 600}]}, {"a": "last"}]
    fake = SimpleNamespace(load_dataset=lambda *args, **options: rows)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    first, rejection, last = read_rows("nobody/nothing", max_line_bytes=1000)
    assert isinstance(rejection, Rejection)
    assert (rejection.source, rejection.reason) == ("nobody/nothing[train]:2", "too_long")
    assert "1,200 bytes, more than data.max_line_bytes=1000" in rejection.detail
    assert [first, last] == [
        RawRow({"a": "short"}, "nobody/nothing[train]:1"),
        RawRow({"a": "last"}, "nobody/nothing[train]:3"),
    ]
