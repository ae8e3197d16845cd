"""Tokenises by words that were met before: the fast way for byte-level BPE, with the ids of the tokenizer itself.

Such a tokenizer first cuts a text by one regular expression and then encodes each piece by itself, so a piece always
becomes the same ids. Used by encode.py, which leaves to the tokenizer what is declined here.
"""

import json
import re
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any

from finetune.data.rendering.spans import Span

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` cuts by where it is told nothing else (the GPT-2 release's encoder.py)."""
_CHARACTERS = "".join(map(chr, [9, 10, 13, *range(0x20, 0x7F), *range(0xA1, 0x250), *range(0x2010, 0x2027), 0x20AC]))
_MOST_WORDS = 200_000
_LONGEST_WORD = 128
_encoders: "weakref.WeakKeyDictionary[Any, tuple[object, WordEncoder | None]]" = weakref.WeakKeyDictionary()


class WordEncoder:
    """The pieces of texts that one tokenizer has met, with their ids. Made by `word_encoder`."""

    def __init__(self, backend: Any, cut: Any, added: dict[str, int]) -> None:
        self._backend = backend
        self._cut = cut
        self._added = added
        by_length = sorted(added, key=len, reverse=True)
        self._split = (
            re.compile("(" + "|".join(map(re.escape, by_length)) + ")").split if added else lambda text: [text]
        )
        agreed = "".join(character for character in _CHARACTERS if self._cuts_alike(character))
        self._foreign = re.compile(f"[^{re.escape(agreed)}]").search
        self._known: dict[str, list[int]] = {}

    def encode(
        self, texts: Sequence[str], spans: Sequence[Sequence[Span]]
    ) -> list[tuple[list[int], list[bool]] | None]:
        """Return the ids of each text, and for each token whether it stands in one of the text's spans.

        The spans of a text are ascending and disjoint. None where the result is not certain: a rare character, or a
        span that begins or ends inside a piece.
        """
        cut = [None if self._foreign(text) else self._cut_parts(text) for text in texts]
        known = self._learn(chain.from_iterable(words for parts in cut if parts for words in parts[::2]))
        return [self._assemble(parts, known, own) if parts else None for parts, own in zip(cut, spans, strict=True)]

    def _cut_parts(self, text: str) -> list[list[str]] | None:
        """The pieces between added tokens, and each added token by itself, in turn."""
        parts = [[part] if number % 2 else self._cut(part) for number, part in enumerate(self._split(text))]
        return parts if sum(sum(map(len, words)) for words in parts) == len(text) else None

    def _assemble(
        self, parts: list[list[str]], known: dict[str, list[int]], spans: Sequence[Span]
    ) -> tuple[list[int], list[bool]] | None:
        ids: list[int] = []
        borders: list[int] = []
        """Number of tokens before each start and end of a span."""
        wanted = [place for span in spans for place in span]
        place = 0
        for number, words in enumerate(parts):
            length = sum(map(len, words))
            while len(borders) < len(wanted) and wanted[len(borders)] < place + length:
                before = _words_before(words, wanted[len(borders)] - place)
                if before is None:
                    return None
                borders.append(len(ids) + sum(len(known[word]) for word in words[:before]))
            ids += [self._added[words[0]]] if number % 2 else chain.from_iterable(map(known.__getitem__, words))
            place += length
        borders += [len(ids)] * (len(wanted) - len(borders))
        return ids, _mask(len(ids), borders)

    def _learn(self, words: Iterable[str]) -> dict[str, list[int]]:
        """Encode what is new, and return what is known with it; very long words are not kept."""
        if len(self._known) > _MOST_WORDS:
            self._known.clear()
        new = [word for word in set(words) if word not in self._known]
        encodings = self._backend.encode_batch(new, add_special_tokens=False) if new else []
        found = dict(zip(new, (encoding.ids for encoding in encodings), strict=True))
        self._known |= {word: ids for word, ids in found.items() if len(word) <= _LONGEST_WORD}
        return self._known if all(word in self._known for word in found) else self._known | found

    def _cuts_alike(self, character: str) -> bool:
        """Whether both engines of regular expressions cut at this character alike."""
        text = (
            f"a{character}b {character}{character}c1{character}2 {character} \n{character}'{character}s\n {character}"
        )
        theirs = [place for _, place in self._backend.pre_tokenizer.pre_tokenize_str(text)]
        ends = [0]
        for word in self._cut(text):
            ends.append(ends[-1] + len(word))
        return theirs == list(pairwise(ends))


def _words_before(words: Sequence[str], length: int) -> int | None:
    """How many words make up this many characters; None if one goes over the end."""
    for number, word in enumerate(words):
        if length <= 0:
            return number if length == 0 else None
        length -= len(word)
    return len(words) if length == 0 else None


def _mask(num_tokens: int, borders: Sequence[int]) -> list[bool]:
    mask = [False] * num_tokens
    for start, end in zip(borders[::2], borders[1::2], strict=True):
        mask[start:end] = [True] * (end - start)
    return mask


def word_encoder(tokenizer: Any) -> WordEncoder | None:
    """Return the tokenizer's encoder, kept while the tokenizer lives; None for one that works otherwise."""
    backend = tokenizer.backend_tokenizer
    made_from = (len(tokenizer), bool(getattr(tokenizer, "split_special_tokens", False)))
    known = _encoders.get(tokenizer)
    if known is None or known[0] != made_from:
        known = made_from, (None if made_from[1] else _made(backend))
        _encoders[tokenizer] = known
    return known[1]


def _made(backend: Any) -> WordEncoder | None:
    pattern = _pattern(backend)
    added = backend.get_added_tokens_decoder()
    plain = all(
        not (token.lstrip or token.rstrip or token.single_word or token.normalized) and token.content
        for token in added.values()
    )
    if pattern is None or not plain:
        return None
    try:
        cut = re.compile(_spelt_out(pattern)).findall
    except re.error:
        return None
    return WordEncoder(backend, cut, {token.content: number for number, token in added.items()})


def _pattern(backend: Any) -> str | None:
    """The regular expression by which a byte-level BPE tokenizer cuts texts; None for another kind of tokenizer."""
    normalizer = json.loads(backend.normalizer.__getstate__()) if backend.normalizer else {"type": "NFC"}
    if type(backend.model).__name__ != "BPE" or backend.model.dropout or normalizer != {"type": "NFC"}:
        return None
    steps = list(_steps(json.loads(backend.pre_tokenizer.__getstate__()))) if backend.pre_tokenizer else []
    match [{**step, "type": step.get("type")} for step in steps]:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return _GPT2
        case [
            {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if "(" not in re.sub(r"\\.|\(\?", "", pattern):
            return pattern
    return None


def _spelt_out(pattern: str) -> str:
    r"""Write a pattern for Python's own engine: `\p{L}` becomes the letters among the characters that are looked at."""
    import regex

    written: list[str] = []
    in_class = False
    for part in re.findall(r"\\[pP]\{\w+\}|\\.|[^\\]", pattern):
        if part.lower().startswith(r"\p"):
            members = re.escape("".join(regex.findall(part, _CHARACTERS)))
            part = members if in_class else f"[{members}]"
        elif part in "[]":
            in_class = part == "["
        written.append(part)
    return "".join(written)


def _steps(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if state["type"] == "Sequence":
        for step in state["pretokenizers"]:
            yield from _steps(step)
    else:
        yield state
