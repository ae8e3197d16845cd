"""The files beside the weights of an export: configuration, generation settings, tokenizer, card, licence texts."""

import copy
import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import ExportError
from finetune.export.merge import MergePlan

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)

_COPIED = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", "*processor_config.json")
"""Licence texts have to go with the weights; processors belong to models that also see or hear."""

_DTYPE_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def write_companions(
    plan: MergePlan, folder: Path, *, tokenizer: Any | None, card: str, generation: Mapping[str, object]
) -> None:
    """Write all files but the weights into `folder`; config.json comes last, since no folder loads without it."""
    for pattern in _COPIED:
        for path in sorted(plan.base_dir.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    write_tokenizer(plan.base_dir, folder, tokenizer)
    (folder / "README.md").write_text(card, encoding="utf-8")
    config = _read_object(plan.base_dir / "config.json")
    _write_object(folder / "generation_config.json", generation_config(plan.base_dir, config, generation))
    _write_object(folder / "config.json", exported_config(plan, config))


def write_tokenizer(base_dir: Path, folder: Path, tokenizer: Any | None) -> None:
    """Save the tokenizer with its chat template, without any truncation or padding that training had switched on."""
    if tokenizer is None:
        for name in TOKENIZER_FILES:
            if (base_dir / name).is_file():
                shutil.copyfile(base_dir / name, folder / name)
        return
    saved = copy.deepcopy(tokenizer)
    backend = getattr(saved, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    saved.save_pretrained(str(folder))


def exported_config(plan: MergePlan, config: Mapping[str, object]) -> dict[str, object]:
    """Return the base's configuration as it describes the merged weights: their type, untied where they are."""
    dropped = ("quantization_config", "torch_dtype", "dtype", "_name_or_path")
    exported = {key: value for key, value in config.items() if key not in dropped}
    sizes: Counter[str] = Counter()
    for tensor in plan.tensors:
        sizes[tensor.dtype] += tensor.num_bytes if tensor.dtype in _DTYPE_NAMES else 0
    exported["dtype"] = _DTYPE_NAMES.get(max(sizes, key=lambda dtype: sizes[dtype]), "float32")
    if plan.untied:
        exported["tie_word_embeddings"] = False
        text = exported.get("text_config")
        if isinstance(text, dict):
            exported["text_config"] = text | {"tie_word_embeddings": False}
    return exported


def generation_config(base_dir: Path, config: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """Return the base's generation settings with `changes`; without any, the special tokens of its configuration."""
    path = base_dir / "generation_config.json"
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    known = {name: config[name] for name in names if config.get(name) is not None}
    return (_read_object(path) if path.is_file() else known) | dict(changes)


def _read_object(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); fetch the model again") from error
    if not isinstance(content, dict):
        raise ExportError(f"{path}: holds no object; fetch the model again")
    return content


def _write_object(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
