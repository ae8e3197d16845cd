"""Plans base + adapter from headers alone, and refuses what cannot be merged exactly. Called by the writers of formats.

`merged_rows.py` computes what is planned here.

Shapes: O outputs, I inputs, R rank; a weight is OI, or IO where it is stored transposed (embedding, Conv1D).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from finetune.errors import ExportError
from finetune.export.adapter_files import Adapter, LowRankPair, read_adapter
from finetune.export.expert_pairs import expert_pairs
from finetune.export.names import find_embedding, find_head, find_tensor, is_embedding, is_head
from finetune.export.tensor_files import (
    BLOCK_BYTES,
    MERGEABLE,
    TORCH_DTYPES,
    StoredTensor,
    read_checkpoint,
    read_rows,
    row_ranges,
)

TIED_HEAD = "lm_head.weight"
"""Name of the output head that a tied checkpoint leaves out."""

CONV1D_MODELS = frozenset({"gpt2", "openai-gpt"})
"""Values of `model_type` whose linear layers are transformers' Conv1D: (inputs, outputs), as PEFT sees by the class."""


def is_linear_weight(name: str, shape: tuple[int, ...]) -> bool:
    """Whether training in 4 bits quantises a checkpoint tensor: linear layers all but the output head."""
    return name.endswith(".weight") and len(shape) == 2 and not is_head(name) and not is_embedding(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundTrip:
    """Repeats the quantisation of training, for `export.merge_base=dequantized`."""

    function: Callable[[torch.Tensor], torch.Tensor]
    """Quantise one whole stored weight and expand it again."""
    is_quantized: Callable[[str, tuple[int, ...]], bool] = is_linear_weight
    """Whether training quantised a checkpoint tensor, by its name and shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorPlan:
    """How one output tensor comes about."""

    name: str
    dtype: str
    """Number type of the output, that of the base tensor."""
    source: StoredTensor
    """Where its values come from: the base, or the adapter for a fully trained tensor."""
    pair: LowRankPair | None = None
    transposed: bool = False
    """Whether the weight is stored IO."""
    round_trip: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return self.source.shape

    @property
    def num_bytes(self) -> int:
        """Size of the output."""
        if self.is_copy:
            return self.source.num_bytes
        return self.source.num_bytes // TORCH_DTYPES[self.source.dtype].itemsize * TORCH_DTYPES[self.dtype].itemsize

    @property
    def is_copy(self) -> bool:
        """Whether the output equals the source byte for byte."""
        return self.pair is None and not self.round_trip and self.dtype == self.source.dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class MergePlan:
    """All output tensors, in the order of the base's files."""

    base_dir: Path
    adapter: Adapter
    tensors: tuple[TensorPlan, ...]
    untied: bool
    """Whether the output head became a tensor of its own, because only one side of a tied pair was trained."""
    round_trip: RoundTrip | None

    @property
    def num_bytes(self) -> int:
        """Size of all output tensors."""
        return sum(tensor.num_bytes for tensor in self.tensors)

    def as_type(self, dtype: str) -> "MergePlan":
        """Return the plan with every tensor of real numbers in one type."""
        tensors = (replace(tensor, dtype=dtype) if tensor.dtype in MERGEABLE else tensor for tensor in self.tensors)
        return replace(self, tensors=tuple(tensors))


def plan_merge(base_dir: Path, adapter_dir: Path, *, round_trip: RoundTrip | None = None) -> MergePlan:
    """Map every adapter tensor to the base tensor that it changes, from headers and configurations only.

    Raises:
        ExportError: the adapter was made for another base, uses an unknown variant, or a name cannot be matched.
    """
    adapter = read_adapter(adapter_dir)
    base = read_checkpoint(base_dir)
    config = _read_config(base_dir)
    _check_unquantized(base_dir, base, config)
    sources, tied = dict(base), _tied_names(base, config, adapter)
    if tied is not None:
        sources |= dict.fromkeys(tied, base[tied[0] if tied[0] in base else tied[1]])
    pairs = _match_pairs(adapter, sources, conv1d=config.get("model_type") in CONV1D_MODELS)
    replaced = _match_replacements(adapter, sources)
    untied = tied is not None and not {*pairs, *replaced}.isdisjoint(tied)
    if tied is None or not untied:
        sources = dict(base)
    elif tied[0] in replaced and ".base_layer." in replaced[tied[0]].name:
        replaced.setdefault(tied[1], replaced[tied[0]])
    tensors = tuple(
        TensorPlan(
            name=name,
            dtype=tensor.dtype,
            source=replaced.get(name, tensor),
            pair=pairs.get(name, (None, False))[0],
            transposed=pairs.get(name, (None, False))[1],
            round_trip=round_trip is not None and name not in replaced and round_trip.is_quantized(name, tensor.shape),
        )
        for name, tensor in sources.items()
    )
    _check_round_trips(tensors)
    return MergePlan(base_dir=base_dir, adapter=adapter, tensors=tensors, untied=untied, round_trip=round_trip)


def plan_base(base_dir: Path) -> MergePlan:
    """Plan the base alone, for a copy of it in another format.

    Raises:
        ExportError: the folder holds no weights that can be read.
    """
    tensors = (
        TensorPlan(name=name, dtype=tensor.dtype, source=tensor) for name, tensor in read_checkpoint(base_dir).items()
    )
    nothing = Adapter(folder=base_dir, pairs={}, replacements={}, tensors=())
    return MergePlan(base_dir=base_dir, adapter=nothing, tensors=tuple(tensors), untied=False, round_trip=None)


def _read_config(base_dir: Path) -> dict[str, object]:
    path = base_dir / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); {base_dir} is no model folder") from error
    if not isinstance(config, dict):
        raise ExportError(f"{path}: holds no object; {base_dir} is no model folder")
    return config


def _check_unquantized(base_dir: Path, base: Mapping[str, StoredTensor], config: Mapping[str, object]) -> None:
    packed = sorted(name for name, tensor in base.items() if tensor.dtype not in MERGEABLE and len(tensor.shape) > 1)
    if packed and config.get("quantization_config"):
        raise ExportError(
            f"{base_dir}: its weights are stored quantised ({packed[0]} is {base[packed[0]].dtype}); an adapter is "
            "merged into the 16-bit weights: give the original model's folder"
        )


def _tied_names(
    base: Mapping[str, StoredTensor], config: Mapping[str, object], adapter: Adapter
) -> tuple[str, str] | None:
    """Name embedding and output head where they are one tensor, stored under either name; None where they are two.

    Raises:
        ExportError: the adapter changes a head that is stored for both, and the embedding's own name cannot be told.
    """
    embedding, head = find_embedding(base), find_head(base)
    if not _ties_embeddings(config) or (head is not None and any(map(is_embedding, base))):
        return None
    if head is None:
        return None if embedding is None else (embedding, TIED_HEAD)
    changed = [*(f"{module}.weight" for module in adapter.pairs), *adapter.replacements]
    prefixes = (name.partition("layers.")[0] for name in base if "layers." in name)
    guesses = (f"{prefix}embed_tokens.weight" for prefix in prefixes)
    name = next(filter(is_embedding, changed), None) or next(guesses, None)
    if name is None and any(map(is_head, changed)):
        raise ExportError(
            f"{adapter.folder}: changes {head}, which the base model stores for its embedding too; save the base with "
            "transformers' save_pretrained and take that folder"
        )
    return None if name is None else (name, head)


def _ties_embeddings(config: Mapping[str, object]) -> bool:
    """Whether a checkpoint with one of embedding and output head uses it as both; the default differs by model."""
    text = config.get("text_config")
    inner = text.get("tie_word_embeddings") if isinstance(text, dict) else None
    return config.get("tie_word_embeddings", inner) is not False


def _match_pairs(
    adapter: Adapter, sources: Mapping[str, StoredTensor], *, conv1d: bool
) -> dict[str, tuple[LowRankPair, bool]]:
    """Give each changed base tensor its pair, and whether it is stored IO (transformers' Conv1D, embeddings)."""
    matched: dict[str, tuple[LowRankPair, bool]] = {}
    for module, pair in adapter.pairs.items():
        transposed = pair.embedding or (conv1d and not is_head(f"{module}.weight"))
        wanted = (pair.num_inputs, pair.num_outputs) if transposed else (pair.num_outputs, pair.num_inputs)
        name = _match(f"{module}.weight", wanted, sources, adapter.folder)
        if name in matched:
            raise ExportError(f"{adapter.folder}: {module} and {matched[name][0].module} would both change {name}")
        matched[name] = (pair, transposed)
    parts = expert_pairs(adapter.stacks, sources, adapter.folder)
    return matched | {name: (pair, False) for name, pair in parts.items()}


def _match_replacements(adapter: Adapter, sources: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    matched: dict[str, StoredTensor] = {}
    for full_name, tensor in adapter.replacements.items():
        name = _match(full_name, tensor.shape, sources, adapter.folder)
        if name in matched:
            raise ExportError(f"{adapter.folder}: {tensor.name} and {matched[name].name} would both replace {name}")
        matched[name] = tensor
    return matched


def _match(name: str, shape: tuple[int, ...], sources: Mapping[str, StoredTensor], adapter_dir: Path) -> str:
    found = find_tensor(name, sources, shape)
    if found is None:
        raise ExportError(
            f"the base model has no tensor {name}, which {adapter_dir} changes: it was made for another base"
        )
    base = sources[found]
    if base.shape != shape:
        raise ExportError(
            f"{found} has shape {base.shape} in the base model, {adapter_dir} expects {shape}: the adapter was made "
            "for another base"
        )
    if base.dtype not in MERGEABLE:
        raise ExportError(
            f"{found} has type {base.dtype} in the base model, which cannot be merged; give 16-bit weights"
        )
    return found


def _check_round_trips(tensors: tuple[TensorPlan, ...]) -> None:
    for tensor in tensors:
        if tensor.round_trip and (tensor.source.dtype not in MERGEABLE or (tensor.pair and tensor.transposed)):
            raise ExportError(
                f"{tensor.name}: its quantisation in training cannot be repeated here; use export.merge_base=original"
            )


def check_values(plan: MergePlan, block_bytes: int = BLOCK_BYTES) -> None:
    """Read the whole adapter once.

    Raises:
        ExportError: a value is not a number, or infinite; the tensor is named.
    """
    for tensor in plan.adapter.tensors:
        for start, stop in row_ranges(tensor, block_bytes):
            if not torch.isfinite(read_rows(tensor, start, stop)).all():
                raise ExportError(f"{tensor.path}: {tensor.name} holds NaN or infinity; the training went wrong")
