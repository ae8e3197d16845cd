"""Lays out a GGUF file before a byte of it is written: its tensors, their types, all metadata, its size.

Works from a model's configuration, shapes and tokenizer alone, so that it is called before a training too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.errors import ExportError
from finetune.export.gguf.architectures import architecture_name as name_of
from finetune.export.gguf.architectures import differences, metadata, plan_tensors
from finetune.export.gguf.mix import FILE_TYPES, ModelShape, choose_types
from finetune.export.gguf.quantize import check_types
from finetune.export.gguf.tensors import GgufTensor
from finetune.export.gguf.vocabulary import read_vocabulary
from finetune.export.gguf.write import num_bytes
from finetune.export.names import is_embedding, is_head

QUANTIZATION_VERSION = 2
"""Of ggml's block types; changes when their layout does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FileLayout:
    """All that a file will hold but the values of its weights."""

    format: str
    """As llama.cpp calls it, such as Q4_K_M."""
    tensors: tuple[GgufTensor, ...]
    types: Mapping[str, str]
    """Type of each tensor, by its name in the file."""
    metadata: Mapping[str, Any]
    differences: tuple[str, ...]
    """What llama.cpp does otherwise than transformers, one sentence each."""
    hard_texts: tuple[str, ...]
    """Texts that llama.cpp must encode as the tokenizer does."""

    @property
    def context(self) -> int:
        """Longest context in tokens at which texts of every length come out as in transformers."""
        architecture = self.metadata["general.architecture"]
        if "rope_factors_long.weight" in self.types:  # llama.cpp chooses among two sets of factors by the context
            return self.metadata[f"{architecture}.rope.scaling.original_context_length"]
        return self.metadata[f"{architecture}.context_length"]

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(num_bytes(tensor, self.types[tensor.name]) for tensor in self.tensors)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """What the file says about where it comes from."""

    name: str
    license: str
    base_model: str | None = None
    """Hub id of the base model."""
    tags: Sequence[str] = ()


def lay_out(
    format: str,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    tokenizer: Any,
    tokenizer_dir: Path,
    facts: ModelFacts,
    generation: Mapping[str, Any] | None = None,
    with_importance: bool = False,
) -> FileLayout:
    """Plan a file of a format from config.json and the checkpoint's shapes.

    Raises:
        ConfigError: the architecture is not known, or a type cannot be made here.
        ExportError: the checkpoint has other tensors than its configuration says, or the tokenizer cannot be written.
    """
    tensors = tuple(plan_tensors(config, shapes))
    keys = metadata(config, generation)
    types = choose_types(tensors, format, _model_shape(name_of(config), keys, with_importance))
    check_types(types.values(), with_importance=with_importance)
    vocabulary = read_vocabulary(tokenizer_dir, tokenizer, _vocabulary_rows(shapes))
    return FileLayout(
        format=format,
        tensors=tensors,
        types=types,
        metadata={
            **_general(replace(facts, name=vocabulary.fitting_name(facts.name)), name_of(config)),
            **keys,
            **vocabulary.metadata(),
            "general.quantization_version": QUANTIZATION_VERSION,
            "general.file_type": FILE_TYPES[format],
        },
        differences=(*differences(config), *vocabulary.differences),
        hard_texts=tuple(vocabulary.hard_text()),
    )


def _model_shape(architecture: str, keys: Mapping[str, Any], with_importance: bool) -> ModelShape:
    return ModelShape(
        architecture=architecture,
        num_layers=keys[f"{architecture}.block_count"],
        num_heads=keys[f"{architecture}.attention.head_count"],
        num_kv_heads=keys[f"{architecture}.attention.head_count_kv"],
        num_experts=keys.get(f"{architecture}.expert_count", 0),
        has_importance=with_importance,
    )


def _general(facts: ModelFacts, architecture: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": facts.name,
        "general.license": facts.license.lower(),
    }
    if facts.base_model is not None:
        organization, _, name = facts.base_model.rpartition("/")
        found |= {
            "general.base_model.count": 1,
            "general.base_model.0.name": name,
            "general.base_model.0.organization": organization,
            "general.base_model.0.repo_url": f"https://huggingface.co/{facts.base_model}",
        }
    return found | {"general.tags": list(facts.tags)}


def _vocabulary_rows(shapes: Mapping[str, tuple[int, ...]]) -> int:
    matrices = {name: shape[0] for name, shape in shapes.items() if len(shape) == 2}
    rows = [matrices[name] for name in matrices if is_embedding(name)]
    rows = rows or [matrices[name] for name in matrices if is_head(name)]  # a tied pair under the head's name
    if len(rows) != 1:
        raise ExportError(f"the checkpoint has {len(rows)} token embeddings; one is expected")
    return rows[0]
