"""Takes the text out of a PDF with pypdf. Called by document_worker.py."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.data.readers.document_text import Deadline, Refused, Text, named


def read_pdf(path: str, max_bytes: int, tell: Callable[[str], None]) -> dict[str, object]:
    """The text of all pages; `without_text` numbers the pages that show something but hold no text.

    `tell` is told which page comes next.
    """
    import pypdf
    import pypdf.errors

    text = Text(max_bytes)
    without_text: list[int] = []
    with Path(path).open("rb") as file:
        size = file.seek(0, 2)
        try:
            reader = pypdf.PdfReader(file)
            num_pages = len(reader.pages)
        except (pypdf.errors.FileNotDecryptedError, pypdf.errors.WrongPasswordError, pypdf.errors.DependencyError):
            raise Refused("wrong_type", _ENCRYPTED) from None
        except (MemoryError, Refused):
            raise
        except Exception as error:
            detail = f"a damaged PDF, or none ({named(error)}); save or download it again"
            raise Refused("wrong_type", detail) from None
        if num_pages == 0:
            raise Refused("wrong_type", "a PDF of no pages")
        deadline = Deadline(size)
        for number in range(1, num_pages + 1):
            deadline.next_step()
            tell(f"page {number} of {num_pages}")
            found, is_empty = _page(reader, number)
            text.add(found + "\n")
            if is_empty:
                without_text.append(number)
    return {"text": text.whole(), "without_text": without_text, "num_pages": num_pages}


_ENCRYPTED = "the PDF is encrypted; save it without a password, for example: qpdf --decrypt in.pdf out.pdf"


_BULLET = "\u2022"
"""What unused codes of the encoding WinAnsi show (ISO 32000-1, table D.2, note 3); pypdf gives the code."""
_PAINTS = re.compile(rb"(?<!\S)(?:Do|EI|[fBb]\*?|[FSs]|sh)(?!\S)")
"""Operators that paint an image, a form or a path (ISO 32000-1, table 51)."""


def _page(reader: Any, number: int) -> tuple[str, bool]:
    """A page's text, and whether it shows something (a scan) without text."""
    try:
        page = reader.pages[number - 1]
        found = page.extract_text().replace("\x7f", _BULLET)
        if found.strip():
            return found, False
        contents = page.get_contents()
        return "", contents is not None and _PAINTS.search(contents.get_data()) is not None
    except (MemoryError, Refused):
        raise
    except Exception as error:
        if "decrypt" in str(error).lower() or "cryptography" in str(error).lower():
            raise Refused("wrong_type", _ENCRYPTED) from None
        raise Refused("wrong_type", f"page {number} of the PDF cannot be read ({named(error)})") from None
