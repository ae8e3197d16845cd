"""Documents: the text of .html .pdf .docx is the text that they show, and what has none says why."""

import html
import logging
import re
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from finetune.data.load import RawRow, read_rows
from finetune.errors import DataError
from finetune.records import Rejection

pytestmark = pytest.mark.slow

Write = Callable[..., str]

CONTRACT = """EXHIBIT 10.1

THIS AGREEMENT ("Agreement"), made on 5 May 2019 between A_B Corp. * and <Müller & Söhne> GmbH:

1.  Governing law. The law of New York [*****] governs; § 2 applies.
2.  Term: ____________   (the "Term")    # not a heading

\tSigned: ______________________
"""


def words(text: object) -> list[str]:
    return str(text).split()


def pdf_with(*pages: list[str] | bytes) -> bytes:
    """A PDF: a page is lines of text, or a content stream as it stands."""
    streams = [page if isinstance(page, bytes) else _text_stream(page) for page in pages]
    kids = b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(pages)))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding >>",
    ]
    for number, stream in enumerate(streams):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 2000 800] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % (5 + 2 * number)
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    out = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table) + b"trailer << /Size %d" % len(objects)
    return out + b" /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % out.rindex(b"xref\n0")


def _text_stream(lines: list[str]) -> bytes:
    escaped = (re.sub(r"([()\\])", r"\\\1", line).encode("cp1252") for line in lines)
    return b"BT /F1 9 Tf 12 TL 20 780 Td " + b" ".join(b"(%s) Tj T*" % line for line in escaped) + b" ET"


SCAN = b"q 500 0 0 700 0 0 cm BI /W 1 /H 1 /BPC 8 /CS /G ID \x00 EI Q"

WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx_with(body: str, **parts: str) -> bytes:
    """A Word document of this body; `footnotes` gives a further part."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>')
        for name, content in parts.items():
            archive.writestr(f"word/{name}.xml", f'<w:{name} xmlns:w="{WORD}">{content}</w:{name}>')
    return out.getvalue()


def paragraphs(text: str) -> str:
    lines = (html.escape(line).replace("\t", "</w:t><w:tab/><w:t>") for line in text.splitlines())
    return "".join(f'<w:p><w:r><w:t xml:space="preserve">{line}</w:t></w:r></w:p>' for line in lines)


def as_html(text: str) -> bytes:
    return ("<html><body>" + "".join(f"<p>{html.escape(line)}</p>" for line in text.splitlines())).encode()


def only_row(path: str) -> RawRow:
    (row,) = read_rows(path)
    assert isinstance(row, RawRow), row
    return row


@pytest.mark.parametrize("kind", [".txt", ".md", ".html", ".htm", ".docx", ".pdf"])
def test_a_contract_gives_the_same_words_in_every_kind_of_file(write: Write, kind: str) -> None:
    contents = {".docx": docx_with(paragraphs(CONTRACT)), ".pdf": pdf_with(CONTRACT.splitlines())}
    content = contents.get(kind, as_html(CONTRACT) if "htm" in kind else CONTRACT)
    row = only_row(write("contract" + kind, content))
    assert words(row.values["text"]) == words(CONTRACT)
    assert row.source == "contract" + kind
    assert str(row.values["text"]).count("\n") >= 4


def test_a_folder_of_all_kinds_is_one_document_per_file(write: Write) -> None:
    write("docs/a.txt", "A")
    write("docs/b.html", "<p>B")
    write("docs/c.docx", docx_with(paragraphs("C")))
    write("docs/d.pdf", pdf_with(["D"]))
    folder = Path(write("docs/e/f.md", "F")).parent.parent
    rows = list(read_rows(str(folder)))
    assert [
        (row.source, words(row.values["text"]), row.values["group"]) for row in rows if isinstance(row, RawRow)
    ] == [
        (name, [name[-1 if "." not in name else name.index(".") - 1].upper()], name)
        for name in ("a.txt", "b.html", "c.docx", "d.pdf", "e/f.md")
    ]


def test_word_takes_insertions_controls_and_notes_and_leaves_deletions(write: Write) -> None:
    run = "<w:r><w:t>{}</w:t></w:r>"
    body = (
        f"<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr>{run.format('kept')}<w:ins>{run.format(' inserted')}</w:ins>"
        f"<w:del><w:r><w:delText>deleted</w:delText></w:r></w:del><w:moveFrom>{run.format('moved')}</w:moveFrom></w:p>"
        f"<w:sdt><w:sdtContent><w:p>{run.format('control')}</w:p></w:sdtContent></w:sdt>"
        f"<w:tbl><w:tr><w:tc><w:p>{run.format('x')}</w:p></w:tc><w:tc><w:p>{run.format('y')}</w:p></w:tc></w:tr></w:tbl>"
    )
    notes = f"<w:footnote><w:p>{run.format('a note')}</w:p></w:footnote>"
    row = only_row(write("a.docx", docx_with(body, footnotes=notes)))
    assert row.values["text"] == "kept inserted\ncontrol\nx\ty\na note\n"


def test_html_is_what_a_browser_shows(write: Write) -> None:
    page = (
        b"\xef\xbb\xbf<!DOCTYPE html><head><title>no</title><style>no</style></head><body><script>if (a<b) no()"
        b"</script><h1>Title</h1>one&nbsp;<b>bo</b>ld<br>two\n  three"
        b"<table><tr><td>1<td>2<tr><td>3</table><template>no</template>"
        b"<pre>x\ny</pre>&lt;end&gt; caf\xc3\xa9<!-- no -->"
    )
    row = only_row(write("a.html", page))
    assert row.values["text"] == "Title\none bold\ntwo three\n\n1\t2\n\n3\n\nx\ny\n<end> café\n"


def test_html_may_declare_its_own_character_set(write: Write) -> None:
    page = '<meta charset="windows-1252"><p>“café”'.encode("cp1252")
    assert words(only_row(write("a.html", page)).values["text"]) == ["“café”"]
    with pytest.raises(DataError, match=r"^b.html:1: not UTF-8 \(byte 0x93"):
        list(read_rows(write("b.html", "<p>“café”".encode("cp1252"))))


def test_a_scan_is_refused_and_a_partial_scan_is_reported(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DataError, match=r"^scan.pdf: 3 of 3 pages hold no text: a scan; run OCR, for example ocrmypdf"):
        list(read_rows(write("scan.pdf", pdf_with(SCAN, SCAN, SCAN))))
    write("docs/scan.pdf", pdf_with(SCAN))
    folder = str(Path(write("docs/part.pdf", pdf_with(["one"], SCAN, b"BT ET", ["two"], SCAN))).parent)
    with caplog.at_level(logging.WARNING, logger="finetune.data"):
        part, scan = read_rows(folder)
    assert isinstance(part, RawRow)
    assert words(part.values["text"]) == ["one", "two"]
    assert isinstance(scan, Rejection)
    assert (scan.reason, scan.source) == ("null", "scan.pdf")
    assert "part.pdf: 2 of 5 pages hold no text and are not read (pages 2, 5): a scan?" in caplog.text


def encrypted_pdf() -> bytes:
    pypdf = pytest.importorskip("pypdf")
    writer = pypdf.PdfWriter(clone_from=BytesIO(pdf_with(["secret"])))
    writer.encrypt("password", algorithm="RC4-128")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("locked.pdf", encrypted_pdf, "is encrypted; save it without a password, for example: qpdf"),
        ("none.pdf", b"no PDF at all", "a damaged PDF, or none"),
        ("cut.pdf", lambda: pdf_with(["x"])[:60], "a damaged PDF, or none"),
        ("empty.pdf", pdf_with, "a PDF of no pages"),
        ("none.docx", b"no zip at all", r"a damaged .docx, or none"),
        ("cut.docx", lambda: docx_with("<w:p/>" * 500)[:-40], "a damaged .docx, or none"),
        ("locked.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "an encrypted .docx or an old .doc"),
        ("xml.docx", lambda: docx_with("<w:p>"), "a damaged .docx, or none"),
        ("blank.docx", lambda: docx_with("<w:p/>"), "the file is empty"),
        ("blank.html", b"<script>x</script>", "the file is empty"),
    ],
)
def test_a_document_without_text_says_why(write: Write, name: str, content: Any, message: str) -> None:
    data = content if isinstance(content, bytes) else content()
    with pytest.raises(DataError, match=f"^{name}: .*{message}"):
        list(read_rows(write(name, data)))
    folder = str(Path(write(f"docs/{name}", data)).parent)
    write("docs/zz.txt", "Z")
    rejection, row = read_rows(folder)
    assert isinstance(row, RawRow)
    assert isinstance(rejection, Rejection)
    assert re.search(message, rejection.detail)


def test_no_document_opens_a_connection_or_another_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    asked: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}"

        def listen() -> None:
            try:
                while True:
                    asked.append(server.accept())
            except OSError:
                return

        listener = threading.Thread(target=listen)
        listener.start()
        page = f'<!DOCTYPE html SYSTEM "{address}/x.dtd"><link href="{address}"><img src="{address}">'
        assert only_row(write("a.html", f'{page}<iframe src="{address}"></iframe><p>text')).values["text"] == "text\n"
        entity = f'<!DOCTYPE d [<!ENTITY x SYSTEM "file://{tmp_path}/secret.txt">]><d>&x;</d>'
        out = BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("word/document.xml", entity)
        with pytest.raises(DataError, match=r"^b.docx: the .docx declares a document type"):
            list(read_rows(write("b.docx", out.getvalue())))
        listener.join()
    assert asked == []


@pytest.mark.parametrize(("name", "package"), [("a.pdf", "pypdf"), ("a.html", "lxml")])
def test_a_missing_extra_names_the_command(
    write: Write, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None if wanted == package else object())
    path = write(f"docs/{name}", b"x")
    for place in (path, str(Path(path).parent)):
        with pytest.raises(
            DataError, match=rf"{name}: reading .* needs {package}. .* pip install 'finetune\[documents\]'"
        ):
            list(read_rows(place))


def test_the_reader_ends_with_its_rows(write: Write) -> None:
    import psutil

    write("docs/a.docx", docx_with(paragraphs("A")))
    rows = read_rows(str(Path(write("docs/b.docx", docx_with(paragraphs("B")))).parent))
    before = {child.pid for child in psutil.Process().children()}
    next(rows)
    assert len({child.pid for child in psutil.Process().children()} - before) == 1
    rows.close()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator
    assert {child.pid for child in psutil.Process().children()} <= before


def write_docx(path: Path, text: str) -> None:
    docx = pytest.importorskip("docx")
    document = docx.Document()
    for line in text.splitlines():
        document.add_paragraph(line)
    document.save(path)


def write_pdf(path: Path, text: str) -> None:
    """Pages of 60 lines; characters that the font lacks are left out by the caller."""
    canvas = pytest.importorskip("reportlab.pdfgen.canvas")
    pages = canvas.Canvas(str(path), pagesize=(2000, 800))
    lines = [part for line in text.splitlines() for part in _wrapped(line)]
    for start in range(0, len(lines), 60):
        writer = pages.beginText(20, 780)
        writer.setFont("Courier", 9, leading=12)
        for line in lines[start : start + 60]:
            writer.textLine(line)
        pages.drawText(writer)
        pages.showPage()
    pages.save()


def _wrapped(line: str, width: int = 350) -> Iterator[str]:
    while len(line) > width and (cut := line.rfind(" ", 0, width)) > 0:
        yield line[:cut]
        line = line[cut + 1 :]
    yield line


@pytest.mark.slow
def test_real_contracts_give_the_same_words_as_docx_html_and_pdf(shared_dir: Path, tmp_path: Path) -> None:
    contracts = sorted((shared_dir / "data/legal/cuad/contracts").glob("*.txt"))
    assert len(contracts) == 60
    for kind in ("docx", "html", "pdf"):
        (tmp_path / kind).mkdir()
    for path in contracts:
        text = path.read_text(encoding="utf-8")
        write_docx(tmp_path / "docx" / f"{path.stem}.docx", text)
        (tmp_path / "html" / f"{path.stem}.html").write_bytes(as_html(text))
        write_pdf(tmp_path / "pdf" / f"{path.stem}.pdf", _printable(text))
    for kind in ("docx", "html", "pdf"):
        rows = list(read_rows(str(tmp_path / kind)))
        assert len(rows) == 60
        for row, path in zip(rows, contracts, strict=True):
            assert isinstance(row, RawRow), row
            text = path.read_text(encoding="utf-8")
            assert words(row.values["text"]) == words(_printable(text) if kind == "pdf" else text), row.source


def _printable(text: str) -> str:
    """Without what the standard fonts of a PDF cannot show (a few Chinese names and special spaces)."""
    spaced = re.sub(r"[\u2000-\u200a\u202f]", " ", text).replace("\xad", "").replace("\u200b", "")
    return spaced.encode("cp1252", errors="ignore").decode("cp1252")
