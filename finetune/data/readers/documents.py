"""Reads documents, one row each: .txt and .md here, .html .pdf .docx in a process of their own. Called by load.py."""

import contextlib
import importlib.util
import json
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from finetune.data.readers.document_text import SECONDS_PER_STEP
from finetune.data.readers.raw import RawRow, SourceFile, decode_utf8, rejected, too_long
from finetune.errors import DataError
from finetune.records import Rejection

logger = logging.getLogger(__name__)

TEXT_SUFFIXES = (".txt", ".md")
HTML_SUFFIXES = (".html", ".htm")
BINARY_SUFFIXES = (".pdf", ".docx")
DOCUMENT_SUFFIXES = (*TEXT_SUFFIXES, *HTML_SUFFIXES, *BINARY_SUFFIXES)

_PACKAGES = {".pdf": "pypdf", ".html": "lxml", ".htm": "lxml"}
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?([\w-]{1,40})", re.IGNORECASE)
_PAGES_NAMED = 20


class DocumentReader:
    """Reads documents one after the other; use it in a `with` statement, which ends its process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "DocumentReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def read(self, file: SourceFile) -> RawRow | Rejection:
        """The document as a row with the column `text`, or why it cannot be one.

        Raises:
            DataError: a package of the extra `documents` is missing, or compressed data is damaged.
        """
        try:
            if file.kind in BINARY_SUFFIXES:
                content, text = b"", self._ask(file, {"path": str(file.path.resolve())})
            else:
                with file.open() as stream:
                    content = stream.read(file.limits.max_line_bytes + 1)
                if len(content) > file.limits.max_line_bytes:
                    size = max(file.path.stat().st_size, len(content))
                    return too_long(file.name, "a document", size, file.limits, content)
                text = self._text(file, content)
        except _NoText as problem:
            return rejected(file.name, problem.reason, problem.detail)
        if not text.strip():
            return rejected(file.name, "null", "the file is empty (no text, at most white space)")
        return RawRow({"text": text}, file.name)

    def _text(self, file: SourceFile, content: bytes) -> str:
        if file.kind in HTML_SUFFIXES:
            page = _decode_html(content, file.name).encode("utf-8", errors="replace")
            return self._ask(file, {"num_bytes": len(page)}, page)
        try:
            text = decode_utf8(content, file.name)
        except DataError as error:
            raise _NoText("encoding", str(error)) from None
        return text.replace("\r\n", "\n").replace("\r", "\n")

    def _ask(self, file: SourceFile, request: dict[str, object], content: bytes = b"") -> str:
        """Let the other process take the text out of a document."""
        _check_package(file)
        process = self._start()
        line = json.dumps(request | {"kind": file.kind, "max_bytes": file.limits.max_line_bytes}).encode() + b"\n"
        answer: dict[str, Any] = {"at": "start"}
        try:
            _pipe(process.stdin).write(line + content)
            _pipe(process.stdin).flush()
            while "at" in answer:
                place, received = answer["at"], _pipe(process.stdout).readline()
                answer = json.loads(received) if received.endswith(b"\n") else self._died(place)
        except BrokenPipeError:
            answer = self._died("start")
        if "text" not in answer:
            raise _NoText(answer["reason"], answer["detail"])
        return _checked_pages(file, answer)

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            command = [sys.executable, "-P", "-m", "finetune.data.readers.document_worker"]
            paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
            pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, env=environment)
            if not _pipe(self._process.stdout).readline():
                self._stop()
                raise DataError(f"the reader of documents does not start ({' '.join(command)}). Run it to see why")
        return self._process

    def _died(self, place: str) -> dict[str, Any]:
        """What became of a process that gave no answer; the next document gets a new one."""
        code = self._stop()
        where = "" if place == "start" else f" at {place}"
        if code == -getattr(signal, "SIGPROF", 0):
            detail = f"takes longer than {SECONDS_PER_STEP:g} s to read{where}: a loop, or damaged"
        else:
            detail = f"crashes its reader{where} (exit {code}): damaged, or too big"
        return {"reason": "wrong_type", "detail": detail}

    def _stop(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                _pipe(pipe).close()
        try:
            return process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


class _NoText(Exception):
    """The document gives no row."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    return cast(IO[bytes], pipe)


def read_document(file: SourceFile) -> Iterator[RawRow | Rejection]:
    """Read a file that is one document.

    Raises:
        DataError: it gives no text: the file as a whole is the mistake.
    """
    with DocumentReader() as reader:
        row = reader.read(file)
    if isinstance(row, Rejection) and row.reason != "too_long":
        detail = row.detail if row.detail.startswith(file.name) else f"{file.name}: {row.detail}"
        raise DataError(f"{detail} ({file.path})")
    yield row


def _check_package(file: SourceFile) -> None:
    package = _PACKAGES.get(file.kind)
    if package is not None and importlib.util.find_spec(package) is None:
        raise DataError(
            f"{file.name}: reading {file.kind} needs {package}. Install it: pip install 'finetune[documents]'"
        )


def _decode_html(content: bytes, source: str) -> str:
    """UTF-8, or else the character set that the page itself declares."""
    try:
        return decode_utf8(content, source)
    except DataError as error:
        declared = _CHARSET.search(content[:4096])
        try:
            if declared and b"\0" not in content:
                return content.decode(declared[1].decode())
        except (LookupError, UnicodeDecodeError):
            pass
        raise _NoText("encoding", str(error)) from None


def _checked_pages(file: SourceFile, answer: dict[str, Any]) -> str:
    """The text, unless no page holds any; pages that may be scans are named in a warning."""
    pages: list[int] = answer.get("without_text", [])
    num_pages = answer.get("num_pages", 0)
    if num_pages and not answer["text"].strip():
        raise _NoText(
            "null",
            f"{num_pages} of {num_pages} pages hold no text: a scan; run OCR, for example ocrmypdf, and give that",
        )
    if pages:
        named = ", ".join(map(str, pages[:_PAGES_NAMED])) + (", …" if len(pages) > _PAGES_NAMED else "")
        logger.warning(
            "%s: %d of %d pages hold no text and are not read (pages %s): a scan? Run OCR, for example ocrmypdf",
            *(file.name, len(pages), num_pages, named),
        )
    return answer["text"]
