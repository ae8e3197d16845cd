"""Tokenised rows kept for later runs, found again only if nothing that they depend on has changed. For tokenize.py."""

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache as memoise
from pathlib import Path
from typing import Any

from finetune.data.examples import FILES
from finetune.data.store import Conversations, encode_conversation
from finetune.records import Conversation

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_ENTRIES_KEPT = 16


def cache_key(conversations: Sequence[Conversation], tokenizer: Any, options: object) -> str:
    """Hash everything that the examples depend on: every row, tokenizer, template, options, code and versions."""
    digest = hashlib.blake2b(digest_size=20)
    parts = (_code_digest(), _versions(), _tokenizer_state(tokenizer), json.dumps(options, sort_keys=True))
    for part in parts:
        digest.update(hashlib.blake2b(part.encode(errors="surrogatepass")).digest())
    labels = conversations.label if isinstance(conversations, Conversations) else None
    for number, conversation in enumerate(conversations):
        label = labels(number) if labels else ""
        record = encode_conversation(conversation)
        digest.update(f"{label} {len(record)} ".encode())
        digest.update(record)
    return digest.hexdigest()


@memoise
def _code_digest() -> str:
    """Hash the modules of this package: a changed one makes all older entries unknown."""
    digest = hashlib.blake2b()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


@memoise
def _versions() -> str:
    return " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("transformers", "tokenizers", "jinja2"))


def _tokenizer_state(tokenizer: Any) -> str:
    """Write all that decides ids and templates: the tokenizer's own file, its template and special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = {
        "class": type(tokenizer).__name__,
        "backend": backend.to_str() if backend is not None else "",
        "template": tokenizer.chat_template,
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "settings": {name: str(value) for name, value in sorted(getattr(tokenizer, "init_kwargs", {}).items())},
    }
    return json.dumps(state, sort_keys=True, default=str)


def open_entry(folder: Path, key: str) -> dict[str, Any] | None:
    """Return what `keep_entry` was given, or None where there is no entry or it is damaged (it is then deleted)."""
    entry = folder / key
    if not entry.is_dir():
        return None
    try:
        manifest = json.loads((entry / _MANIFEST).read_text(encoding="utf-8"))
        whole = all(_sha256(entry / name) == manifest["sha256"][name] for name in FILES)
        os.utime(entry)
    except (OSError, ValueError, KeyError):
        whole, manifest = False, {}
    if not whole:
        logger.warning("%s: damaged tokenised rows are thrown away and made again", entry)
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return manifest["outcome"]


def stage_entry(folder: Path) -> Path:
    """Make an empty folder beside the entries, readable by its owner alone, to write a new entry into."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Path(tempfile.mkdtemp(prefix=".new-", dir=folder))


def keep_entry(staged: Path, folder: Path, key: str, outcome: dict[str, Any]) -> Path:
    """Put a staged folder in its place, whole or not at all, and delete the entries not used for longest."""
    manifest = {"sha256": {name: _sha256(staged / name) for name in FILES}, "outcome": outcome}
    (staged / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    entry = folder / key
    shutil.rmtree(entry, ignore_errors=True)
    staged.rename(entry)
    others = [path for path in folder.iterdir() if path.is_dir() and path != entry]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[_ENTRIES_KEPT - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
    return entry


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
