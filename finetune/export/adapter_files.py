"""Reads a PEFT adapter folder: its options, its low-rank pairs, its fully trained tensors. Headers only.

Whatever is not known to be merged exactly is refused here, before anything is written.
"""

import functools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.errors import ExportError
from finetune.export.names import is_head
from finetune.export.tensor_files import MERGEABLE, StoredTensor, read_header, read_rows
from finetune.model.adapter_folder import INITIALISATIONS, NEUTRAL, PREFIX

EXPERT_PARAMETERS = ("gate_up_proj", "down_proj")
"""The two parameters in which transformers stacks a layer's experts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertPart:
    """Which part of a stack's update changes one matrix of one expert (peft.tuners.lora.layer.ParamWrapper)."""

    number: int
    """The expert: it has rows `number` x rank and following of lora_A, and every `count`-th column of lora_B."""
    count: int
    """Experts in the stack."""
    start: int
    """First output: gate and up lie in one parameter."""
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ExpertStack:
    """Low-rank update of one parameter that stacks a layer's experts; which one it is, the shapes tell."""

    module: str
    """Path of the experts' module."""
    down: StoredTensor
    """Shape (experts x rank, inputs)."""
    up: StoredTensor
    """Shape (outputs, rank x experts)."""
    options: Mapping[str, tuple[int, float]]
    """Rank and scaling of each of EXPERT_PARAMETERS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LowRankPair:
    """One module's update: scaling x (up @ down), in PEFT's words lora_B @ lora_A."""

    module: str
    """Path of the module in the base model."""
    down: StoredTensor
    """lora_A, shape (rank, inputs)."""
    up: StoredTensor
    """lora_B, shape (outputs, rank)."""
    magnitude: StoredTensor | None
    """DoRA's length of each output's weights, shape (outputs,)."""
    scaling: float
    embedding: bool
    """Whether the module is an embedding: the vocabulary is its input."""
    part: ExpertPart | None = None
    """Which part of the two tensors is meant, where they update a stack of experts; None: all of them."""

    @property
    def num_inputs(self) -> int:
        """Width of the module's input."""
        return self.down.shape[1]

    @property
    def num_outputs(self) -> int:
        """Width of the module's output."""
        return self.up.shape[0] if self.part is None else self.part.stop - self.part.start

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Read down_RI and up_OR, in their stored type."""
        part = self.part
        if part is None:
            return read_rows(self.down), read_rows(self.up)
        rank = self.down.shape[0] // part.count
        down_RI = read_rows(self.down, part.number * rank, (part.number + 1) * rank)
        return down_RI, _whole_stack(self.up)[part.start : part.stop, part.number :: part.count]


@functools.lru_cache(maxsize=2)
def _whole_stack(tensor: StoredTensor) -> torch.Tensor:
    """Each expert takes a few columns out of every row: without the cache the stack would be read once per expert."""
    return read_rows(tensor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """What an adapter folder holds; every tensor of its file is in `pairs`, `stacks` or `replacements`."""

    folder: Path
    pairs: dict[str, LowRankPair]
    """By module path."""
    replacements: dict[str, StoredTensor]
    """Fully trained tensors, by the name of the base tensor that they replace."""
    tensors: tuple[StoredTensor, ...]
    stacks: tuple[ExpertStack, ...] = ()


_ROLES = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_embedding_A": "embedding_down",
    ".lora_embedding_B": "embedding_up",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}


def read_adapter(folder: Path) -> Adapter:
    """Read an adapter's options and headers.

    Raises:
        ExportError: the folder is no LoRA adapter in safetensors, or uses a variant that cannot be merged exactly.
    """
    options = _read_options(folder)
    _check_options(options, folder)
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise ExportError(f"{folder}: no adapter_model.safetensors; adapters in other formats (.bin) are not read")
    tensors = read_header(path)
    modules: dict[str, dict[str, StoredTensor]] = {}
    replacements: dict[str, StoredTensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        if not _sort_in(name, tensor, options, modules, replacements):
            unknown.append(name)
    if unknown:
        raise ExportError(f"{path}: no rule to merge {len(unknown)} tensors: {_listed(unknown)}")
    if not tensors:
        raise ExportError(f"{path}: holds no tensors; nothing was trained")
    stacks = tuple(_stack(module, found, options, path) for module, found in modules.items() if _is_stack(module))
    parameters = options.get("target_parameters") or ()
    if not stacks and any(str(name).endswith(EXPERT_PARAMETERS) for name in parameters):  # type: ignore[union-attr]
        raise ExportError(f"{path}: holds no experts, which target_parameters names; the adapter is incomplete")
    pairs = {module: _pair(module, found, options, path) for module, found in modules.items() if not _is_stack(module)}
    for tensor in tensors.values():
        if tensor.dtype not in MERGEABLE:
            raise ExportError(f"{path}: tensor {tensor.name} has type {tensor.dtype}, which cannot be merged")
    return Adapter(
        folder=folder,
        pairs=pairs,
        stacks=stacks,
        replacements=replacements,
        tensors=tuple(tensors.values()),
    )


def _read_options(folder: Path) -> dict[str, object]:
    path = folder / "adapter_config.json"
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); {folder} is no PEFT adapter") from error
    if not isinstance(options, dict):
        raise ExportError(f"{path}: holds no object; {folder} is no PEFT adapter")
    return options


def _check_options(options: Mapping[str, object], folder: Path) -> None:
    """Refuse whatever is not plain LoRA, rsLoRA or DoRA on the base's own weights."""
    kind = options.get("peft_type")
    if kind != "LORA":
        raise ExportError(f"{folder}: adapter of type {kind!r}; only LoRA, rsLoRA and DoRA can be merged")
    active = sorted(name for name, value in options.items() if value and name not in NEUTRAL)
    if active:
        raise ExportError(
            f"{folder}: uses {', '.join(active)}, which cannot be merged; use the adapter with peft instead"
        )
    parameters = options.get("target_parameters") or ()
    known = isinstance(parameters, list | tuple) and all(
        str(name).rpartition(".")[2] in EXPERT_PARAMETERS or str(name).endswith("gate.weight") for name in parameters
    )
    if not known:
        raise ExportError(f"{folder}: target_parameters is {parameters}; only experts and their router can be merged")
    start = options.get("init_lora_weights", True)
    if not isinstance(start, bool) and start is not None and start not in INITIALISATIONS:
        raise ExportError(
            f"{folder}: init_lora_weights is {start!r}, so the adapter does not fit the base's own weights; convert it "
            "to plain LoRA first (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if options.get("bias", "none") not in ("none", "all", "lora_only"):
        raise ExportError(f"{folder}: bias={options.get('bias')!r} is unknown")


def _sort_in(
    name: str,
    tensor: StoredTensor,
    options: Mapping[str, object],
    modules: dict[str, dict[str, StoredTensor]],
    replacements: dict[str, StoredTensor],
) -> bool:
    """Put one tensor where it belongs; return False if there is no such place."""
    if not name.startswith(PREFIX):
        return False
    path = name.removeprefix(PREFIX)
    for ending, role in _ROLES.items():
        if path.endswith(ending):
            module = path.removesuffix(ending)
            is_nested = _is_stack(module) and bool(options.get("target_parameters"))
            if "base_layer" in module.split(".") and not is_nested:
                return False
            modules.setdefault(module, {})[role] = tensor
            return True
    module, _, leaf = path.rpartition(".")
    own = module.removesuffix(".base_layer")
    if "lora_" in path or "base_layer" in own.split("."):
        return False
    trained = own != module or _is_saved(own, options) or bool(options.get("ensure_weight_tying") and is_head(path))
    if not trained and not (leaf == "bias" and options.get("bias") in ("all", "lora_only")):
        return False
    replacements[f"{own}.{leaf}"] = tensor
    return True


def _is_saved(module: str, options: Mapping[str, object]) -> bool:
    """Whether a module lies at or below one of `modules_to_save`; PEFT takes those as plain endings of paths."""
    saved = options.get("modules_to_save") or ()
    parts = module.split(".")
    paths = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
    return isinstance(saved, list) and any(path.endswith(str(name)) for name in saved for path in paths)


def _pair(module: str, found: Mapping[str, StoredTensor], options: Mapping[str, object], path: Path) -> LowRankPair:
    embedding = "embedding_down" in found or "embedding_up" in found
    down, up = (found.get("embedding_" + role if embedding else role) for role in ("down", "up"))
    magnitude = found.get("magnitude")
    expected = {"embedding_down", "embedding_up"} if embedding else {"down", "up"}
    expected |= {"magnitude"} if options.get("use_dora") else set()
    if down is None or up is None or set(found) != expected:
        raise ExportError(
            f"{path}: {module} has {_listed(found)}, expected {_listed(expected)}; the adapter is incomplete"
        )
    rank, alpha = rank_and_alpha(module, options)
    if len(down.shape) != 2 or len(up.shape) != 2 or not down.shape[0] == up.shape[1] == rank:
        raise ExportError(f"{path}: {module} has shapes {down.shape} and {up.shape}, not those of rank {rank}")
    if magnitude is not None and magnitude.shape != up.shape[:1]:
        raise ExportError(f"{path}: {module} has a magnitude of shape {magnitude.shape}, expected {up.shape[:1]}")
    scaling = alpha / math.sqrt(rank) if options.get("use_rslora") else alpha / rank
    return LowRankPair(module=module, down=down, up=up, magnitude=magnitude, scaling=scaling, embedding=embedding)


def _is_stack(module: str) -> bool:
    """Whether a module holds a layer's experts; where both parameters are adapted, one wraps the other."""
    return module.removesuffix(".base_layer").rpartition(".")[2] == "experts"


def _stack(module: str, found: Mapping[str, StoredTensor], options: Mapping[str, object], path: Path) -> ExpertStack:
    if set(found) != {"down", "up"} or any(len(tensor.shape) != 2 for tensor in found.values()):
        raise ExportError(f"{path}: {module} has {_listed(found)}, expected two matrices, down and up")
    own = module.removesuffix(".base_layer")
    ranks = {name: rank_and_alpha(f"{own}.{name}", options) for name in EXPERT_PARAMETERS}
    rooted = bool(options.get("use_rslora"))
    return ExpertStack(
        module=own,
        down=found["down"],
        up=found["up"],
        options={name: (rank, alpha / (math.sqrt(rank) if rooted else rank)) for name, (rank, alpha) in ranks.items()},
    )


def rank_and_alpha(module: str, options: Mapping[str, object]) -> tuple[int, float]:
    """Rank and alpha of a module, its pattern first (peft.utils.other.get_pattern_key)."""
    rank = _by_pattern(options.get("rank_pattern"), module, options.get("r", 8))
    alpha = _by_pattern(options.get("alpha_pattern"), module, options.get("lora_alpha", 8))
    return int(rank), float(alpha)


def _by_pattern(patterns: object, module: str, default: object) -> float:
    chosen = default
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if re.match(rf"(.*\.)?({pattern})$", module):
            chosen = value
            break
    if not isinstance(chosen, int | float) or chosen <= 0:
        raise ExportError(f"rank or alpha of {module} is {chosen!r}; the adapter's configuration is damaged")
    return chosen


def _listed(names: Mapping[str, object] | list[str] | set[str], limit: int = 5) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")
