"""Digests of a model's files, so that a resumed run can tell whether its base is the same. Called by jobs."""

import hashlib
import json
from pathlib import Path
from typing import Any

WHOLE_BYTES = 256_000_000
"""Weights of at most so many bytes are read as a whole (a second); of larger ones samples are."""

_BLOCK_BYTES = 1 << 16
_BLOCKS_PER_FILE = 64

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)


def digest_weights(folder: Path) -> str:
    """Return size and BLAKE2 digest of a folder's safetensors files.

    Files of more than `WHOLE_BYTES` together are known by names, sizes, first block (the header's beginning) and 64
    blocks of 64 KiB spread evenly over each: another model or training changes all of them, a single flipped bit may
    be missed.
    """
    files = sorted(folder.glob("*.safetensors"))
    total = sum(file.stat().st_size for file in files)
    digest = hashlib.blake2b(digest_size=20)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            step = _BLOCK_BYTES if total <= WHOLE_BYTES else max(_BLOCK_BYTES, size // _BLOCKS_PER_FILE)
            for start in range(0, size, step):
                stream.seek(start)
                digest.update(stream.read(_BLOCK_BYTES))
    return f"{total} bytes {digest.hexdigest()}"


def digest_config(folder: Path) -> str:
    """Return the digest of config.json, which says how the weights are used."""
    return _digest_json(folder / "config.json", ignored=("transformers_version", "_name_or_path"))


def digest_tokenizer(folder: Path) -> str:
    """Return the digest of the tokenizer's files; the chat template is compared for itself."""
    parts = [f"{name} {_digest_of(folder / name)}" for name in _TOKENIZER_FILES if (folder / name).is_file()]
    return digest_text("\n".join(parts))


def digest_text(text: str) -> str:
    """Return the BLAKE2 digest of a text, in hexadecimal."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=20).hexdigest()


def _digest_of(path: Path) -> str:
    if path.suffix == ".json":
        return _digest_json(path, ignored=("chat_template", "transformers_version"))
    return hashlib.blake2b(path.read_bytes(), digest_size=20).hexdigest()


def _digest_json(path: Path, *, ignored: tuple[str, ...]) -> str:
    """Hash what a JSON file says, however it is laid out, without these keys."""
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if key not in ignored}
    return digest_text(json.dumps(content, sort_keys=True))
