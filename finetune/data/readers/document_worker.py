"""Takes the text out of one document after the other, in a process of its own. Started by documents.py.

Such files are programs of a kind: they can loop, grow without end, or crash a parser written in C. Here that costs a
bounded amount of memory and time, and this process alone. It opens no connection and starts no other process.

One JSON line in per document: {kind, max_bytes, path}, or {kind, max_bytes, num_bytes} and so many bytes.
JSON lines out: {"at": …} as it goes on, and at last {"text": …} or {"reason": …, "detail": …}.
"""

import contextlib
import json
import logging
import signal
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from finetune.data.readers.document_text import Deadline, Refused, named
from finetune.data.readers.docx_text import read_docx
from finetune.data.readers.html_text import read_html
from finetune.data.readers.pdf_text import read_pdf

MEMORY_BYTES = 400_000_000


def answer(message: dict[str, object]) -> None:
    """Send one line to the parent."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def _confine() -> None:
    """Bound the memory, and refuse connections and other processes."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def refuse(event: str, _: object) -> None:
        if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn")):
            raise PermissionError(f"{event} is not for readers of documents")

    sys.addaudithook(refuse)


def _requests(stream: BinaryIO) -> Iterator[tuple[dict[str, Any], bytes]]:
    while line := stream.readline():
        request = json.loads(line)
        yield request, stream.read(request.get("num_bytes", 0))


def _read(request: dict[str, Any], content: bytes) -> dict[str, object]:
    kind, max_bytes = request["kind"], request["max_bytes"]
    if kind == ".pdf":
        return read_pdf(request["path"], max_bytes, lambda place: answer({"at": place}))
    return read_docx(request["path"], max_bytes) if kind == ".docx" else read_html(content, max_bytes)


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    logging.disable(logging.CRITICAL)
    _confine()
    answer({"at": "start"})
    for request, content in _requests(sys.stdin.buffer):
        Deadline(0).next_step()
        try:
            result: dict[str, object] = _read(request, content)
        except Refused as refused:
            result = {"reason": refused.reason, "detail": refused.detail}
        except MemoryError:
            result = {"reason": "wrong_type", "detail": f"needs more than {MEMORY_BYTES // 10**6} MB of memory to read"}
        except OSError as error:
            result = {"reason": "wrong_type", "detail": f"cannot be opened ({error.strerror})"}
        except Exception as error:
            result = {"reason": "wrong_type", "detail": f"cannot be read ({named(error)})"}
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        answer(result)


if __name__ == "__main__":
    main()
