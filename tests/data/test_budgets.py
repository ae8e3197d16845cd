"""What hostile files cost: each is refused, or its row rejected, in bounded memory and time; memory is flat by size."""

import gzip
import io
import json
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from finetune.data.load import RawRow, read_rows
from finetune.data.readers.raw import rejected
from finetune.errors import DataError
from finetune.records import Rejection

Write = Callable[..., str]

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.bar("R13")

MOST_BYTES = 500_000_000
MOST_SECONDS = 10.0

_READ = """
import json, re, resource, sys, time
from pathlib import Path
from finetune.data.load import RawRow, read_rows
from finetune.errors import DataError
rows, rejections, error = 0, [], ""
try:
    for row in read_rows(sys.argv[1]):
        if isinstance(row, RawRow):
            rows += 1
        else:
            rejections.append([row.source, row.reason, row.detail])
except DataError as problem:
    error = str(problem)
own, other = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
peak = own.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
status = Path("/proc/self/status")  # on Linux ru_maxrss counts what the parent held when it started this process
if status.exists():
    peak = 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", status.read_text())[1])
peak += other.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
seconds = own.ru_utime + own.ru_stime + other.ru_utime + other.ru_stime
print(json.dumps([rows, rejections[:5], error, peak, seconds]))
"""


class Outcome(NamedTuple):
    rows: int
    rejections: list[list[str]]
    error: str
    peak_bytes: int
    """Of the reading process, and of one that it starts, together."""
    seconds: float
    """Of processor time, so that a busy machine fails no test; nothing here waits for anything else."""


def read_apart(path: str | Path) -> Outcome:
    """Read all rows in a process of their own, and measure it."""
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], capture_output=True, text=True, check=True)
    return Outcome(*json.loads(done.stdout))


def read_within_budget(path: str | Path) -> Outcome:
    outcome = read_apart(path)
    logger.info("%s: %.0f MB, %.2f s, %s", path, outcome.peak_bytes / 1e6, outcome.seconds, outcome[:3])
    assert outcome.peak_bytes < MOST_BYTES
    assert outcome.seconds < MOST_SECONDS
    return outcome


def zeros(num_bytes: int, character: bytes = b"x") -> Iterator[bytes]:
    block = character * (1_000_000 // len(character))
    for _ in range(num_bytes // len(block)):
        yield block


def write_gzip(path: Path, blocks: Iterator[bytes]) -> Path:
    with gzip.open(path, "wb", compresslevel=6) as file:
        for block in blocks:
            file.write(block)
    return path


def write_zstd(path: Path, blocks: Iterator[bytes]) -> Path:
    import pyarrow

    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        for block in blocks:
            file.write(block)
    return path


@pytest.mark.bar("R13")
@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.jsonl.zst", "bomb.txt.gz", "bomb.csv.zst", "bomb.json.gz"])
def test_a_decompression_bomb_is_refused(tmp_path: Path, name: str) -> None:
    write_file = write_gzip if name.endswith(".gz") else write_zstd
    filler = b'[{"a": 1},\n' if ".json." in name else b'{"a": 1}\n'
    path = write_file(tmp_path / name, zeros(120_000_000, filler if "json" in name else b"a,b\n"))
    limits = {"max_line_bytes": 500_000_000} if ".txt" in name else {}
    with pytest.raises(DataError, match=rf"^{name}: [\d,]+ compressed bytes grew to .*data.max_expansion=200 times"):
        for _ in read_rows(str(path), **limits):
            pass


def test_small_files_may_be_compressed_as_well_as_they_like(tmp_path: Path) -> None:
    path = write_zstd(tmp_path / "a.txt.zst", zeros(30_000_000))
    assert [type(row) for row in read_rows(str(path))] == [RawRow]
    path = write_zstd(tmp_path / "b.txt.zst", zeros(80_000_000))
    with pytest.raises(DataError, match="max_expansion"):
        list(read_rows(str(path), max_line_bytes=200_000_000))
    rows = list(read_rows(str(path), max_line_bytes=200_000_000, max_expansion=100_000))
    assert [type(row) for row in rows] == [RawRow]


@pytest.mark.bar("R13")
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.json", "a.txt"])
def test_what_is_too_long_is_one_rejected_row(write: Write, name: str) -> None:
    """The twin of the 200 MB lines: the same path with a small limit."""
    long = json.dumps({"a": "x" * 3000})
    contents = {
        "a.jsonl": f'{{"a": 1}}\n{long}\n{{"a": 2}}\n',
        "a.csv": f"a\n1\n{'x' * 3000}\n2\n",
        "a.tsv": f"a\tb\n1\t2\n1\t{'x' * 3000}\n2\t3\n",
        "a.json": f'[{{"a": 1}},\n{long},\n{{"a": 2}}]',
        "a.txt": "x" * 3000,
    }
    rows = list(read_rows(write(name, contents[name]), max_line_bytes=1000))
    (rejection,) = [row for row in rows if isinstance(row, Rejection)]
    assert rejection.reason == "too_long"
    assert "3,0" in rejection.detail
    assert "data.max_line_bytes=1000" in rejection.detail
    assert "xxxx" in rejection.content
    expected = {
        "a.jsonl": "a.jsonl:2",
        "a.csv": "a.csv:3",
        "a.tsv": "a.tsv:3",
        "a.json": "a.json:[1]",
        "a.txt": "a.txt",
    }
    assert rejection.source == expected[name]
    assert len(rows) == (1 if name == "a.txt" else 3)


def test_the_limit_itself_is_allowed(write: Write) -> None:
    line = b'{"a": "' + b"x" * 91 + b'"}'
    assert len(line) == 100
    rows = list(read_rows(write("a.jsonl", line + b"\r\n" + line + b" \n" + line), max_line_bytes=100))
    assert [type(row) for row in rows] == [RawRow, Rejection, RawRow]


@pytest.mark.bar("R13")
@pytest.mark.parametrize("depth", [300, 100_000])
def test_deeply_nested_json_is_rejected_by_row(write: Write, depth: int) -> None:
    deep = '{"a": ' + "[" * depth + "]" * depth + "}"
    rows = list(read_rows(write("a.jsonl", f'{{"a": 1}}\n{deep}\n{{"a": {"[" * depth}\n{{"a": 2}}\n')))
    assert [type(row) for row in rows] == [RawRow, Rejection, Rejection, RawRow]
    assert isinstance(rows[1], Rejection)
    assert rows[1].reason == "wrong_type"
    assert "nested too deeply" in rows[1].detail
    rows = list(read_rows(write("a.json", f'[{{"a": 1}}, {deep}]')))
    assert [type(row) for row in rows] == [RawRow, Rejection]


@pytest.mark.bar("R13")
def test_json_of_two_hundred_levels_is_a_row(write: Write) -> None:
    deep = '{"a": ' + "[" * 199 + "]" * 199 + "}"
    assert [type(row) for row in read_rows(write("a.jsonl", deep))] == [RawRow]


@pytest.mark.bar("R13")
def test_links_out_of_a_folder_and_special_files_are_reported(write: Write, tmp_path: Path) -> None:
    secret = Path(write("secret.txt", "secret"))
    folder = Path(write("docs/a.txt", "A")).parent
    write("docs/inner/b.txt", "B")
    (folder / "out.txt").symlink_to(secret)
    (folder / "up.txt").symlink_to("../secret.txt")
    (folder / "gone.txt").symlink_to("nowhere.txt")
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    (folder / "loop.txt").symlink_to("loop.txt")
    os.mkfifo(folder / "pipe.txt")
    rows = list(read_rows(str(folder)))
    assert [row.source for row in rows if isinstance(row, RawRow)] == ["a.txt", "inner/b.txt"]
    found = {row.source: row.detail for row in rows if isinstance(row, Rejection)}
    assert {name: text.split(",")[0].split(";")[0] for name, text in found.items()} == {
        "out.txt": "a link to outside the folder",
        "up.txt": "a link to outside the folder",
        "up": "a link to outside the folder",
        "gone.txt": "a link that leads nowhere",
        "loop.txt": "a link that leads nowhere",
        "pipe.txt": "a named pipe",
    }


@pytest.mark.bar("R13")
def test_a_named_pipe_or_device_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match=r"^rows.jsonl: is a named pipe, not a file\. Give a file"):
        list(read_rows(str(tmp_path / "rows.jsonl")))
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"^zero.txt: is a device, not a file"):
        list(read_rows(str(tmp_path / "zero.txt")))


@pytest.mark.bar("R13")
def test_the_kept_content_of_a_rejected_row_is_bounded() -> None:
    for content in ("x" * 50_000, b"x" * 50_000, {"a": "x" * 50_000}, ["x"] * 50_000, {"a": {1, 2}}):
        assert 0 < len(rejected("f:1", "null", "d", content).content) <= 10_000


def word_file(path: Path, *parts: tuple[str, Iterator[bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, blocks in parts:
            with archive.open(name, "w", force_zip64=True) as file:
                for block in blocks:
                    file.write(block)
    return path


def looping_pdf(path: Path) -> Path:
    """A page whose content draws a form that draws itself twice, and a page tree that holds itself."""
    page = (
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R"
        b" /Resources << /XObject << /F 5 0 R >> >> >>"
    )
    form = b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /F 5 0 R >> >> /Length 9 >>"
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R 2 0 R] /Count 2 >>",
        page,
        b"<< /Length 5 >>\nstream\n/F Do\nendstream",
        form + b"\nstream\n/F Do /F Do\nendstream",
    ]
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, content))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.writelines(b"%010d 00000 n \n" % place for place in places)
    out.write(b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start))
    path.write_bytes(out.getvalue())
    return path


@pytest.mark.bar("R13")
def test_a_looping_pdf_is_refused_within_the_budget(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    outcome = read_within_budget(looping_pdf(tmp_path / "loop.pdf"))
    assert outcome.rows == 0
    assert outcome.error.startswith("loop.pdf: ")


@pytest.mark.slow
@pytest.mark.bar("R13")
def test_a_document_that_never_ends_costs_its_seconds_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    """The reader's process is ended, and the next document gets a new one."""
    fake = tmp_path / "fake"
    fake.mkdir()
    (fake / "pypdf").mkdir()
    (fake / "pypdf/errors.py").write_text(
        "class A(Exception): pass\nFileNotDecryptedError = WrongPasswordError = A\nDependencyError = A\n"
    )
    (fake / "pypdf/__init__.py").write_text(
        "class PdfReader:\n    def __init__(self, file):\n        while True: pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(fake))
    monkeypatch.syspath_prepend(str(fake))
    (fake / "sitecustomize.py").write_text(
        "import finetune.data.readers.document_text as text; text.SECONDS_PER_STEP = 0.2\n"
    )
    write("docs/a.pdf", b"%PDF")
    folder = Path(write("docs/b.html", "<p>B")).parent
    write("docs/c.pdf", b"%PDF")
    first, second, third = read_rows(str(folder))
    assert isinstance(first, Rejection)
    assert isinstance(third, Rejection)
    assert (first.reason, first.source) == ("wrong_type", "a.pdf")
    assert "takes longer than" in first.detail
    assert isinstance(second, RawRow)


@pytest.mark.bar("R13")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("line.jsonl", "too_long"),
        ("line.csv", "too_long"),
        ("quoted.csv", "wrong_type"),
        ("line.json", "too_long"),
        ("line.txt", "too_long"),
        ("line.html", "too_long"),
        ("values.jsonl", "wrong_type"),
        ("deep.jsonl", "wrong_type"),
    ],
)
def test_a_200_mb_line_is_rejected_within_the_budget(tmp_path: Path, name: str, reason: str) -> None:
    first = {"json": b'[{"a": "', "csv": b"a,b\n1,2\n", "html": b"<p>"}.get(name.split(".")[1], b'{"a": "')
    first += b'1,"' if name == "quoted.csv" else b""
    filler = {"quoted.csv": b"x" * 999 + b"\n", "values.jsonl": b"[],", "deep.jsonl": b"["}.get(name, b"x")
    size = 30_000_000 if filler in (b"[],", b"[") else 200_000_000
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b'{"a": [' if filler in (b"[],", b"[") else first)
        file.writelines(zeros(size, filler))
        file.write({"values.jsonl": b"[]]}", "line.json": b'"}]', "line.csv": b"\n3,4\n"}.get(name, b'"}\n'))
    outcome = read_within_budget(path)
    path.unlink()
    assert [found[1] for found in outcome.rejections[:1]] == [reason]


@pytest.mark.bar("R13")
@pytest.mark.slow
@pytest.mark.parametrize("filler", [b"[", b"[],", b'"\\n",', b"[[[],[]]],"])
def test_hostile_json_lists_cost_no_more(tmp_path: Path, filler: bytes) -> None:
    path = tmp_path / "a.json"
    with path.open("wb") as file:
        file.write(b"[[")
        file.writelines(zeros(200_000_000, filler))
        file.write(b"1]]")
    outcome = read_within_budget(path)
    path.unlink()
    assert outcome.rows == 0
    assert outcome.error or outcome.rejections


@pytest.mark.bar("R13")
@pytest.mark.slow
@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.jsonl.zst", "bomb.csv.gz", "bomb.txt.zst", "bomb.html.gz"])
def test_a_ten_gigabyte_bomb_is_refused_within_the_budget(tmp_path: Path, name: str) -> None:
    write_file = write_gzip if name.endswith(".gz") else write_zstd
    path = write_file(tmp_path / name, zeros(2_000_000_000 if name.endswith(".gz") else 10_000_000_000))
    outcome = read_within_budget(path)
    assert outcome.rows == 0
    assert outcome.error or outcome.rejections[0][1] == "too_long"


@pytest.mark.bar("R13")
@pytest.mark.slow
def test_hostile_documents_cost_no_more(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    pytest.importorskip("lxml")
    folder = tmp_path / "docs"
    folder.mkdir()
    start = b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r>'
    word_file(folder / "bomb.docx", ("word/document.xml", zeros(1_000_000_000)))
    word_file(folder / "text.docx", ("word/document.xml", iter([start, b"<w:t>", *zeros(60_000_000), b"</w:t>"])))
    word_file(folder / "tags.docx", ("word/document.xml", iter([start, *zeros(30_000_000, b"<w:t/>")])))
    deep = iter([b"<a>" * 100_000] * 50)
    word_file(folder / "deep.docx", ("word/document.xml", deep))
    for name in ("bomb", "text", "tags", "deep"):
        outcome = read_within_budget(folder / f"{name}.docx")
        assert outcome.rows == 0
    (folder / "deep.html").write_bytes(b"<div>" * 5_000_000)
    (folder / "tags.html").write_bytes(b"<b>x" * 5_000_000)
    (folder / "attributes.html").write_bytes(b"<p " + b"a=1 " * 5_000_000 + b">x")
    for name in ("deep", "tags", "attributes"):
        read_within_budget(folder / f"{name}.html")


@pytest.mark.bar("R13")
@pytest.mark.slow
def test_a_huge_parquet_cell_costs_no_more(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    table = pyarrow.table({"a": ["x" * 200_000_000, "b"]})
    for codec in ("none", "zstd"):
        pyarrow.parquet.write_table(table, path, compression=codec, use_dictionary=False)
        outcome = read_within_budget(path)
        assert outcome.error or outcome.rejections


def write_jsonl(path: Path, num_bytes: int) -> None:
    row = {"question": "Which law governs? " * 20, "answer": "New York. " * 10, "n": 0}
    block = "".join(json.dumps(row | {"n": number}) + "\n" for number in range(2000)).encode()
    with path.open("wb") as file:
        for _ in range(num_bytes // len(block)):
            file.write(block)


@pytest.mark.slow
def test_memory_is_flat_from_100_mb_to_1_gb_of_jsonl(tmp_path: Path) -> None:
    peaks: list[int] = []
    for size in (100_000_000, 1_000_000_000):
        path = tmp_path / "rows.jsonl"
        write_jsonl(path, size)
        outcome = read_apart(path)
        path.unlink()
        logger.info("%d bytes: %s", size, outcome)
        assert outcome.error == ""
        peaks.append(outcome.peak_bytes)
    assert abs(peaks[1] - peaks[0]) < 30_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "arrow", "txt"])
def test_memory_is_flat_for_every_other_kind(tmp_path: Path, name: str) -> None:
    peaks = [read_apart(write_table(tmp_path / str(size) / name, size)) for size in (20_000, 200_000)]
    logger.info("%s: %s", name, peaks)
    assert [peak.rows for peak in peaks] == ([200, 2000] if name == "txt" else [20_000, 200_000])
    assert peaks[1].peak_bytes - peaks[0].peak_bytes < 30_000_000


def write_table(path: Path, num_rows: int) -> Path:
    """Rows of about 600 bytes in a file of any kind."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir()
    rows: list[dict[str, Any]] = [{"n": number, "text": f"{number} " * 100} for number in range(num_rows)]
    lines = (json.dumps(row).encode() + b"\n" for row in rows)
    if path.name == "a.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=num_rows)
    elif path.name == "arrow":
        import datasets

        datasets.Dataset.from_list(rows).save_to_disk(path)
    elif path.name == "txt":
        path.mkdir()
        for number in range(num_rows // 100):
            (path / f"{number}.txt").write_text(f"{number} " * 100)
    elif path.name.endswith((".gz", ".zst")):
        (write_gzip if path.suffix == ".gz" else write_zstd)(path, lines)
    elif path.name == "a.csv":
        path.write_text("n,text\n" + "".join(f"{row['n']},{row['text']}\n" for row in rows))
    else:
        path.write_text(json.dumps({"version": 1, "data": rows}))
    return path
