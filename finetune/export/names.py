"""Finds the checkpoint tensor that a model's parameter was loaded from, where the two are named differently.

Newer transformers put prefixes before or inside older names (`language_model.model.layers.0` became
`model.language_model.layers.0`); the endings stay.
"""

from collections.abc import Mapping

from finetune.errors import ExportError
from finetune.export.tensor_files import StoredTensor

EMBEDDING_NAMES = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")
MIXTRAL_ROUTER = (".mlp.gate.", ".block_sparse_moe.gate.")
"""Its name in transformers 5, and in the checkpoint."""
HEAD_NAMES = ("lm_head.weight", "embed_out.weight")


def find_tensor(name: str, stored: Mapping[str, StoredTensor], shape: tuple[int, ...]) -> str | None:
    """Return the checkpoint's name of parameter `name`, or None if it has none.

    The exact name comes first, whatever its shape. Else the longest ending that any name shares decides: one tensor
    of that shape must have it. An ending keeps every number of the path (layer, expert) and two words.

    Raises:
        ExportError: several tensors could be meant.
    """
    for exact in (name, name.replace(*MIXTRAL_ROUTER)):
        if exact in stored:
            return exact
    parts = name.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    last_start = min([len(parts) - 2, *(index - 1 for index in numbers)])
    for start in range(last_start + 1):
        ending = ".".join(parts[start:])
        having = [other for other in stored if other == ending or other.endswith(f".{ending}")]
        fitting = [other for other in having if stored[other].shape == shape]
        if len(fitting) == 1 or len(having) == 1:
            return (fitting or having)[0]
        if having:
            what = ", ".join(sorted(fitting or having)[:4])
            raise ExportError(
                f"{name} could be any of {what} in the base model; its names are not known to this exporter"
            )
    return None


def find_embedding(stored: Mapping[str, StoredTensor]) -> str | None:
    """Return the name of the token embedding, or None where it cannot be told."""
    found = [name for name, tensor in stored.items() if _is_one_of(name, EMBEDDING_NAMES) and len(tensor.shape) == 2]
    return found[0] if len(found) == 1 else None


def find_head(stored: Mapping[str, StoredTensor]) -> str | None:
    """Return the name of the output head's weight, or None where the checkpoint has none."""
    return next((name for name in stored if is_head(name)), None)


def is_head(name: str) -> bool:
    """Whether a weight is the output head's, by its name."""
    return _is_one_of(name, HEAD_NAMES)


def is_embedding(name: str) -> bool:
    """Whether a weight is the token embedding's, by its name."""
    return _is_one_of(name, EMBEDDING_NAMES)


def _is_one_of(name: str, endings: tuple[str, ...]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for ending in endings)
