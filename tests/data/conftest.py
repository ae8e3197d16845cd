"""Fixtures of the data tests: small files, and tokenizers of several kinds."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes | Iterable[object]], str]:
    """Return a function that writes a file (text, bytes, or objects as one JSON line each) and returns its path."""

    def write_file(name: str, content: str | bytes | Iterable[object]) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_bytes(content.encode())
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return str(path)

    return write_file


@pytest.fixture
def chatml_tokenizer(tiny_tokenizer_dir: Path) -> Any:
    """Byte-level, ChatML with generation markers, no BOS."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_tokenizer_dir)


@pytest.fixture
def spaced_tokenizer() -> Any:
    """Like Llama 2: `▁` for spaces and at the front, BOS added, no chat template; unknown characters are `<unk>`."""
    return _spaced_tokenizer(unk="<unk>")


@pytest.fixture
def dropping_tokenizer() -> Any:
    """Like `spaced_tokenizer`, but it drops characters that it does not know."""
    return _spaced_tokenizer(unk=None)


def _spaced_tokenizer(unk: str | None) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    characters = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:?!\n"
    pieces = ["<unk>", "<s>", "</s>", *characters, "▁t", "▁the", "th", "he", "▁law"]
    merges = [("▁", "t"), ("t", "h"), ("h", "e"), ("▁t", "he")]
    model = models.BPE({piece: number for number, piece in enumerate(pieces)}, merges, unk_token=unk, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
