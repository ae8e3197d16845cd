"""The two kinds of BPE that GGUF has: byte-level, and SentencePiece's with spaces marked as ▁. For vocabulary.py."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from finetune.errors import ExportError
from finetune.export.gguf.pre_tokenizers import WAY_OUT, find_pre_tokenizer

SPACE = "▁"
_BYTE_TOKENS = frozenset(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True, kw_only=True, slots=True)
class Pieces:
    """How text becomes tokens, in GGUF's terms."""

    model: str
    pre: str
    merges: Sequence[str] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    """By the text of the token."""
    add_space_prefix: bool | None = None
    normalization: str | None = None
    alphabet: frozenset[str] | None = None
    """The characters that can be encoded; None: all."""
    lead: str = ""
    """Special token behind which text is encoded as the tokenizer does it; "": everywhere."""
    differs_on: str = ""
    """Regular expression of how texts begin that llama.cpp cannot encode as the tokenizer does; "": none."""
    differences: tuple[str, ...] = ()


def is_space_marked(description: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json writes spaces as ▁, by its normalizer or its pre-tokenizer."""
    normalizers, pre_tokenizers = _parts(description, "normalizer"), _parts(description, "pre_tokenizer")
    return any(_replaces_spaces(part) for part in normalizers) or any(
        part["type"] == "Metaspace" for part in pre_tokenizers
    )


def byte_level_pieces(description: Mapping[str, Any]) -> Pieces:
    """Read a byte-level BPE tokenizer.

    Raises:
        ExportError: it normalises text, decorates subwords or splits text in a way that llama.cpp does not have.
    """
    model = description["model"]
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ExportError(f"tokenizer.json: llama.cpp has no prefixes or suffixes of subwords. {WAY_OUT}")
    kinds = [part["type"] for part in _parts(description, "normalizer")]
    if kinds not in ([], ["NFC"]):
        raise ExportError(f"tokenizer.json: llama.cpp has no normalizer {' then '.join(kinds)}. {WAY_OUT}")
    if not any(part["type"] == "ByteLevel" for part in _parts(description, "pre_tokenizer")):
        raise ExportError(f"tokenizer.json: neither byte-level nor with spaces marked as {SPACE}. {WAY_OUT}")
    merges = list(_merges(model))
    known = find_pre_tokenizer(description, lambda: _merges_make_words(model, merges))
    nfc = "text that is not in Unicode's form NFC is not put into it"
    return Pieces(
        model="gpt2",
        pre=known.name,
        merges=[f"{left} {right}" for left, right in merges],
        normalization="NFC" if kinds else None,
        differs_on=_mark_pattern() if known.splits_marks else "",
        differences=tuple(note for note in (nfc if kinds else "", known.difference) if note),
    )


def _mark_pattern() -> str:
    marks = [chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code)).startswith("M")]
    return f"(?s:.*)[{''.join(marks)}]"


def space_marked_pieces(
    description: Mapping[str, Any],
    tokenizer: Any,
    tokens: Sequence[str | None],
    tokenizer_dir: Path,
    chats_open_special: bool,
) -> Pieces:
    """Read a BPE tokenizer that marks spaces as ▁; `chats_open_special`: the trained template begins with a special
    token.

    Raises:
        ExportError: it changes or splits text in a way that llama.cpp does not have.
    """
    _check_steps(description, tokens)
    model = description["model"]
    merges = list(_merges(model))
    spaces = _spaces(tokenizer, chats_open_special)
    has_bytes = bool(model.get("byte_fallback")) and model["vocab"].keys() >= _BYTE_TOKENS
    if not has_bytes and not merges and model.get("unk_token") and model.get("fuse_unk"):
        return _characters(model, spaces)
    ranks: dict[str, float] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, -float(rank))
    no_bytes = "a character that the tokenizer does not know ends in an error, for it has no byte tokens"
    return replace(
        spaces,
        model="llama",
        scores=_model_scores(tokenizer_dir / "tokenizer.model", ranks, model["vocab"]) or ranks,
        alphabet=None if has_bytes else _alphabet(model),
        differences=spaces.differences if has_bytes else (*spaces.differences, no_bytes),
    )


def _characters(model: Mapping[str, Any], spaces: Pieces) -> Pieces:
    """A vocabulary of single characters: each is a word of its own in the unigram model (t5), which knows <unk>."""
    pieces = replace(spaces, model="t5", scores=dict.fromkeys(model["vocab"], -1.0))
    if not spaces.add_space_prefix:
        return pieces
    only_spaces = "text of nothing but spaces gets no further space in front"
    return replace(pieces, differs_on=spaces.differs_on or r" +\Z", differences=(*spaces.differences, only_spaces))


def _alphabet(model: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(token.replace(SPACE, " ") for token in model["vocab"] if len(token) == 1)


def _check_steps(description: Mapping[str, Any], tokens: Sequence[str | None]) -> None:
    normalizers = _parts(description, "normalizer")
    replaced = any(_replaces_spaces(part) for part in normalizers)
    unknown = [
        part["type"]
        for part in normalizers
        if not _replaces_spaces(part) and not (part["type"] == "Prepend" and part["prepend"] == SPACE)
    ]
    for part in _parts(description, "pre_tokenizer"):
        splits_spaces = part["type"] == "Split" and part["pattern"] == {"String": " "} and replaced
        if part["type"] == "Metaspace" and part["replacement"] == SPACE:
            if part.get("split", True) and any(token and SPACE in token[1:] for token in tokens):
                unknown.append("Metaspace that splits words, with tokens across words")
        elif not splits_spaces:
            unknown.append(part["type"])
    if unknown:
        raise ExportError(f"tokenizer.json: llama.cpp's SentencePiece has no {', '.join(unknown)}. {WAY_OUT}")


def _spaces(tokenizer: Any, chats_open_special: bool) -> Pieces:
    """Whether llama.cpp shall put a space before text, and what then differs; the rest of the result is to be set.

    It does so at the start and behind each special token, or never; some tokenizers do so at the start only, and only
    where there is no space yet.
    """
    pieces = Pieces(model="", pre="default", add_space_prefix=False)
    special = next((str(token) for token in tokenizer.added_tokens_decoder.values() if token.special), None)
    at_start = _num_spaces(tokenizer, "x", 0) > 0
    behind = at_start if special is None else _num_spaces(tokenizer, special + "x", 1) > 0
    if behind and not at_start:
        raise ExportError(f"the tokenizer puts a space behind special tokens only, which llama.cpp cannot. {WAY_OUT}")
    if not at_start:
        return pieces
    if not behind and chats_open_special:
        differences = ("text that begins without a special token gets no space in front",)
        return replace(pieces, lead=special or "", differences=differences)
    differences = () if behind else ("text behind a special token gets a space in front",)
    if _num_spaces(tokenizer, " x", 0) == 2:
        return replace(pieces, add_space_prefix=True, differences=differences)
    differences = (*differences, "text that begins with a space gets another")
    return replace(pieces, add_space_prefix=True, differs_on=" ", differences=differences)


def _num_spaces(tokenizer: Any, text: str, num_before: int) -> int:
    """How many spaces the tokens of a text begin with, the first `num_before` tokens left out."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    joined = "".join(tokenizer.convert_ids_to_tokens(ids[num_before:]))
    return len(joined) - len(joined.lstrip(SPACE))


def _model_scores(path: Path, ranks: Mapping[str, float], vocabulary: Mapping[str, int]) -> dict[str, float] | None:
    """Scores of the pieces in a tokenizer.model; None where there is none, or it is not this tokenizer's."""
    if not path.is_file():
        return None
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError):
        return None
    scores = {processor.id_to_piece(number): processor.get_score(number) for number in range(len(processor))}
    if any(piece not in scores for piece in vocabulary):
        return None
    in_order = sorted(ranks, key=lambda piece: -ranks[piece])
    values = [scores[piece] for piece in in_order]
    is_sorted = all(before >= after for before, after in pairwise(values))
    return scores if is_sorted else None


def _merges_make_words(model: Mapping[str, Any], merges: Sequence[tuple[str, str]]) -> bool:
    """Whether merging alone turns the text of each token into that token."""
    from tokenizers.models import BPE

    merger = BPE(model["vocab"], list(merges), ignore_merges=False)
    return all([token.id for token in merger.tokenize(text)] == [number] for text, number in model["vocab"].items())


def _merges(model: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for merge in model["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        yield left, right


def _parts(description: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    return list(_flatten(description.get(name)))


def _flatten(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    if part is None:
        return
    if part["type"] == "Sequence":
        for inner in part.get("normalizers") or part.get("pretokenizers") or ():
            yield from _flatten(inner)
    else:
        yield part


def _replaces_spaces(part: Mapping[str, Any]) -> bool:
    return part["type"] == "Replace" and part["pattern"] == {"String": " "} and part["content"] == SPACE
