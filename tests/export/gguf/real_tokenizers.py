"""Builds Hugging Face tokenizers from the vocabularies in ../shared/tokenizers, as their tokenizer.json would be.

The pre-tokenizers are those of the models' own tokenizer.json files; merges of SentencePiece vocabularies follow from
the scores: every pair of pieces that makes a piece, best piece first.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}|", r"\p{N}|")
GPT2: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BYTES = GPT2 | {"use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}


def split(pattern: str) -> dict[str, Any]:
    """A step that isolates what a pattern matches."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    """Steps one after the other."""
    return {"type": "Sequence", "pretokenizers": list(steps)}


PRE_TOKENIZERS = {
    "gpt-2": GPT2,
    "llama-bpe": sequence(split(LLAMA3), BYTES),
    "qwen2": sequence(split(QWEN2), BYTES),
    "starcoder": sequence(DIGITS, GPT2),
    "falcon": sequence(
        {"type": "Punctuation", "behavior": "Contiguous"},
        GPT2,
        {"type": "Digits", "individual_digits": False},
        split("[0-9][0-9][0-9]"),
    ),
    "deepseek-coder": sequence(
        split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), DIGITS, BYTES
    ),
}

LLAMA_NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}


def from_gguf(path: Path) -> Any:
    """A live tokenizer with the vocabulary of a GGUF file."""
    from gguf import GGUFReader

    fields = GGUFReader(path).fields

    def value(key: str, default: Any = None) -> Any:
        field = fields.get(f"tokenizer.ggml.{key}")
        return default if field is None else field.contents()

    tokens, types = value("tokens"), value("token_type")
    ids = {name: value(f"{name}_token_id") for name in ("bos", "eos", "unknown", "padding")}
    added = [(number, tokens[number]) for number, kind in enumerate(types) if kind in (2, 3, 4)]
    named = {name: None if number is None else tokens[number] for name, number in ids.items()}
    add_bos = bool(value("add_bos_token", value("pre") == "llama-bpe"))
    if value("model") == "gpt2":
        model = {"vocab": _used(tokens, types), "merges": [merge.split(" ", 1) for merge in value("merges")]}
        model["ignore_merges"] = value("pre") == "llama-bpe"
        return build(model, added, named, add_bos=add_bos, pre_tokenizer=PRE_TOKENIZERS[value("pre")])
    model = space_marked(_used(tokens, types), value("scores"))
    return build(model, added, named, add_bos=add_bos, normalizer=LLAMA_NORMALIZER)


def from_sentencepiece(path: Path) -> Any:
    """A live tokenizer with the pieces of a tokenizer.model, spaces put in front as Llama 2 does."""
    from sentencepiece import SentencePieceProcessor

    processor = SentencePieceProcessor(model_file=str(path))
    pieces = [processor.id_to_piece(number) for number in range(len(processor))]
    scores = [processor.get_score(number) for number in range(len(processor))]
    control = [number for number in range(len(processor)) if processor.is_control(number)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    added = [(number, pieces[number]) for number in [processor.unk_id(), *control]]
    named = {
        "bos": pieces[processor.bos_id()],
        "eos": pieces[processor.eos_id()],
        "unknown": pieces[processor.unk_id()],
    }
    return build(space_marked(vocabulary, scores), added, named, add_bos=True, normalizer=LLAMA_NORMALIZER)


def space_marked(vocabulary: dict[str, int], scores: list[float]) -> dict[str, Any]:
    """A BPE model over pieces with ▁ for spaces."""
    pairs = [
        (piece[:cut], piece[cut:], piece)
        for piece in vocabulary
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    ]
    pairs.sort(key=lambda pair: -scores[vocabulary[pair[2]]])
    merges = [[left, right] for left, right, _ in pairs]
    return {"vocab": vocabulary, "merges": merges, "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}


def build(
    model: dict[str, Any],
    added: Iterable[tuple[int, str]],
    named: dict[str, str | None],
    *,
    add_bos: bool,
    normalizer: dict[str, Any] | None = None,
    pre_tokenizer: dict[str, Any] | None = None,
) -> Any:
    """A PreTrainedTokenizerFast from the parts of a tokenizer.json."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    description = {
        "version": "1.0",
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": None if normalizer else BYTES,
        "added_tokens": [{"id": token, "content": text, "special": True, **flags} for token, text in added],
        "model": {"type": "BPE", **model},
    }
    tokenizer = Tokenizer.from_str(json.dumps(description))
    if add_bos and named["bos"] is not None:
        bos = named["bos"]
        tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    chosen = {names[name]: text for name, text in named.items() if text is not None}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **chosen)


def _used(tokens: list[str], types: list[int]) -> dict[str, int]:
    return {token: number for number, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind != 5}
