"""Takes the text out of a web page with lxml. Called by document_worker.py."""

import importlib
import re
from collections.abc import Callable
from typing import Any

from finetune.data.readers.document_text import Refused, Text, named, tidy

_AT_ONCE = 64 * 1024


def read_html(content: bytes, max_bytes: int) -> dict[str, object]:
    """The text that a browser shows, with lxml; scripts, styles and the head are left out, nothing is fetched."""
    etree: Any = importlib.import_module("lxml.etree")  # it has no types

    text = Text(max_bytes)
    parser = etree.HTMLParser(target=_Page(text.add), encoding="utf-8", no_network=True, huge_tree=True)
    try:
        for start in range(0, len(content), _AT_ONCE):
            parser.feed(content[start : start + _AT_ONCE])
        parser.close()
    except etree.LxmlError as error:
        raise Refused("wrong_type", f"no readable HTML ({named(error)})") from None
    return {"text": tidy(text.whole())}


class _Page:
    """Turns the events of an HTML parser into text."""

    _HIDDEN = frozenset(("script", "style", "head", "template", "noscript", "svg", "iframe", "object", "select"))
    _INLINE = frozenset(
        re.findall(
            r"\w+",
            "a abbr acronym b bdi bdo big cite code data del dfn em font i img input ins kbd label mark nobr q s samp "
            "small span strike strong sub sup time tt u var wbr",
        )
    )
    _VOID = frozenset(("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source"))

    def __init__(self, add: Callable[[str], None]) -> None:
        self._add = add
        self._hidden = self._preformatted = 0

    def start(self, tag: str, attributes: object) -> None:
        if self._hidden or tag in self._HIDDEN:
            self._hidden += tag not in self._VOID
            return
        self._preformatted += tag == "pre"
        if tag not in self._INLINE and tag not in ("td", "th"):
            self._add("\n")

    def end(self, tag: str) -> None:
        if self._hidden:
            self._hidden -= tag not in self._VOID
            return
        self._preformatted -= tag == "pre"
        if tag in ("td", "th"):
            self._add("\t")
        elif tag not in self._INLINE and tag != "br":
            self._add("\n")

    def data(self, content: str) -> None:
        if not self._hidden:
            self._add(content if self._preformatted else re.sub(r"[ \t\r\n\f]+", " ", content))

    def comment(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass
