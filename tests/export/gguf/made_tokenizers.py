"""Small tokenizers made on the spot, whose merges cross every border that a pre-tokenizer could draw."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from finetune.export.gguf.hard_text import HARD_TEXT
from finetune.export.gguf.pre_tokenizers import BYTES, DIGIT_RUNS, EACH_DIGIT, KNOWN, PUNCTUATION_RUNS, canonical

NO_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def step(name: str) -> dict[str, Any]:
    """A step of pre_tokenizers.py as tokenizer.json writes it."""
    if name in (EACH_DIGIT, DIGIT_RUNS):
        return {"type": "Digits", "individual_digits": name == EACH_DIGIT}
    if name == PUNCTUATION_RUNS:
        return {"type": "Punctuation", "behavior": "Contiguous"}
    if name == BYTES:
        return BYTE_LEVEL
    return {"type": "Split", "pattern": {"Regex": name}, "behavior": "Isolated", "invert": False}


def pre_tokenizer(steps: Sequence[str]) -> dict[str, Any]:
    """A pre-tokenizer that takes these steps and then turns bytes into characters."""
    last = [] if BYTES in steps else [BYTE_LEVEL]
    return {"type": "Sequence", "pretokenizers": [*map(step, steps), *last]}


@functools.cache
def trained(byte_level: bool) -> Mapping[str, Any]:
    """The vocabulary and merges of a BPE trained on the hard texts without splitting them anywhere."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    alphabet: list[str] = [f"<0x{byte:02X}>" for byte in range(256)]
    texts = [text.replace(" ", "▁") for text in HARD_TEXT]
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        alphabet, texts = pre_tokenizers.ByteLevel.alphabet(), list(HARD_TEXT)
    special = [] if byte_level else ["<unk>", "<s>", "</s>", *alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=1600,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=alphabet if byte_level else [],
        max_token_length=12,
    )
    tokenizer.train_from_iterator(texts * 2, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": model["merges"]}


def make(
    byte_level: bool = True,
    *,
    steps: Sequence[str] = KNOWN[0].steps,
    special: Sequence[str] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    added: Sequence[Mapping[str, Any]] = (),
    model: Mapping[str, Any] | None = None,
    **parts: Any,
) -> Any:
    """A live tokenizer; `parts` replace parts of tokenizer.json, `model` entries of its model."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    base = dict(trained(byte_level))
    first = len(base["vocab"])
    tokens = [{"id": first + number, "content": text, "special": True} for number, text in enumerate(special)]
    tokens += [{"id": first + len(tokens) + number, "special": False, **token} for number, token in enumerate(added)]
    if not byte_level:
        base |= {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
        tokens = [
            {"id": n, "content": text, "special": True} for n, text in enumerate(("<unk>", "<s>", "</s>"))
        ] + tokens
    description: dict[str, Any] = {
        "version": "1.0",
        "pre_tokenizer": pre_tokenizer([canonical(name) for name in steps]) if byte_level else None,
        "normalizer": None,
        "decoder": BYTE_LEVEL if byte_level else None,
        "added_tokens": [NO_FLAGS | token for token in tokens],
        "model": {"type": "BPE", **base, **(model or {})},
    }
    tokenizer = Tokenizer.from_str(json.dumps(description | parts))
    names = (
        {"eos_token": "<|im_end|>"} if byte_level else {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    )
    if "<|im_end|>" not in special and byte_level:
        names = {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)
