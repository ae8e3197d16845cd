"""Takes the text out of a Word document with the standard library. Called by document_worker.py.

Markdown converters escape underscores and stars and add marks that the document does not show, and python-docx leaves
out content controls and tracked insertions; the text here is what a reader of the document sees.
"""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn
from xml.parsers import expat

from finetune.data.readers.document_text import Refused, Text, named, tidy

_XML_BYTES = 200_000_000
_XML_EXPANSION = 200
_FREE_BYTES = 64_000_000
_AT_ONCE = 64 * 1024


def read_docx(path: str, max_bytes: int) -> dict[str, object]:
    """The paragraphs and tables of a Word document, footnotes and endnotes last, with the standard library.

    Text of content controls, text boxes and tracked insertions is taken; that of tracked deletions is not.
    Headers, footers, comments and the numbers of numbered lists are not part of the text.
    """
    with Path(path).open("rb") as file:
        if file.read(8) == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
            raise Refused("wrong_type", "an encrypted .docx or an old .doc; open it and save it as .docx, no password")
    text = Text(max_bytes)
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            main = _main_part(archive, names)
            folder = main.rpartition("/")[0] + "/" if "/" in main else ""
            for name in (main, f"{folder}footnotes.xml", f"{folder}endnotes.xml"):
                if name in names:
                    _read_word_xml(archive, name, text)
    except (
        zipfile.BadZipFile,
        expat.ExpatError,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        KeyError,
    ) as error:
        raise Refused("wrong_type", f"a damaged .docx, or none ({named(error)}); open it and save it again") from None
    return {"text": tidy(text.whole())}


def _main_part(archive: zipfile.ZipFile, names: set[str]) -> str:
    if "_rels/.rels" in names:
        with archive.open("_rels/.rels") as file:
            relations = file.read(_AT_ONCE).decode("utf-8", errors="replace")
        for relation in re.findall(r"<Relationship\b[^>]*>", relations):
            target = re.search(r'Target="/?([^"]+)"', relation)
            if target and re.search(r'Type="[^"]*/officeDocument"', relation) and target[1] in names:
                return target[1]
    if "word/document.xml" in names:
        return "word/document.xml"
    raise Refused("wrong_type", "no Word document (word/document.xml is not in it); open it and save it as .docx")


def _read_word_xml(archive: zipfile.ZipFile, name: str, text: Text) -> None:
    facts = archive.getinfo(name)
    expansion = facts.file_size / max(facts.compress_size, 1)
    if facts.file_size > _XML_BYTES or (facts.file_size > _FREE_BYTES and expansion > _XML_EXPANSION):
        detail = f"{facts.compress_size:,} bytes of the .docx grow to {facts.file_size:,}: a decompression bomb?"
        raise Refused("wrong_type", detail)
    parser = expat.ParserCreate(namespace_separator=" ")
    reader = _Word(text.add)
    parser.StartElementHandler, parser.EndElementHandler = reader.start, reader.end
    parser.CharacterDataHandler = reader.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.buffer_text = True
    with archive.open(facts) as file:
        while block := file.read(_AT_ONCE):
            parser.Parse(block, False)
        parser.Parse(b"", True)


def _refuse_doctype(*_: object) -> NoReturn:
    raise Refused(
        "wrong_type", "the .docx declares a document type, as no Word document does; open it and save it again"
    )


class _Word:
    """Turns the events of WordprocessingML into text."""

    _BREAKS: dict[str, str] = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}  # noqa: RUF012
    _SKIPPED = frozenset(("pPr", "rPr", "sectPr", "tblPr", "moveFrom", "del", "Fallback"))

    def __init__(self, add: Callable[[str], None]) -> None:
        self._add = add
        self._skipping = self._in_text = self._cells = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        _, _, tag = name.rpartition(" ")
        if self._skipping or tag in self._SKIPPED:
            self._skipping += 1
        elif tag == "t":
            self._in_text += 1
        elif tag == "tc":
            self._cells += 1
        elif tag in self._BREAKS:
            self._add(self._BREAKS[tag])

    def end(self, name: str) -> None:
        _, _, tag = name.rpartition(" ")
        if self._skipping:
            self._skipping -= 1
        elif tag == "t":
            self._in_text -= 1
        elif tag == "p":
            self._add(" " if self._cells else "\n")
        elif tag == "tc":
            self._cells -= 1
            self._add("\t")
        elif tag == "tr":
            self._add(" " if self._cells else "\n")

    def data(self, content: str) -> None:
        if self._in_text and not self._skipping:
            self._add(content)
