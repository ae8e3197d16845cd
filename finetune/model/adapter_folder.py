"""Checks a PEFT folder that somebody else may have made, before torch or PEFT see it. Called by adapter.py and jobs.

What is refused: anything but plain LoRA, rsLoRA and DoRA on the base's own weights, options that PEFT would execute or
search with for ever, and a file that is not what the options say.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.errors import ModelError
from finetune.headers import HeaderProblem
from finetune.headers.safetensors import HeaderEntry, read_safetensors_header

PREFIX = "base_model.model."
"""What PEFT puts before the base model's own module path."""
NEUTRAL = frozenset(
    {
        "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
        "ensure_weight_tying", "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode",
        "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
        "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "modules_to_tie", "peft_type",
        "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "target_modules",
        "target_modules_to_tie", "target_parameters", "task_type", "use_dora", "use_rslora",
    }
)  # fmt: skip
"""Options that are understood, or that do not change what the trained weights mean."""
INITIALISATIONS = ("gaussian", "eva", "orthogonal")
"""Initialisations that leave the base weights as they are; True and False do too."""

_MOST_CONFIG_BYTES = 4_000_000
_MOST_RANK = 65_536
_SEARCHES_FOR_EVER = re.compile(r"[*+}][^()\[\]|]*\)\s*[*+{]|\\\d|\(\?P?[=<]")
"""A repeated group that repeats inside, and references back: regular expressions whose time has no bound."""


def check_adapter_folder(path: Path) -> dict[str, Any]:
    """Return the adapter_config.json of a PEFT folder whose weights are what it says; needs no torch.

    Raises:
        ModelError: no folder, no configuration, no safetensors weights, not a LoRA adapter, or a damaged one.
    """
    if not path.is_dir():
        raise ModelError(f"adapter.path: {path} is no folder; give the folder that holds adapter_config.json")
    config_file, weights = path / "adapter_config.json", path / "adapter_model.safetensors"
    if not config_file.is_file():
        raise ModelError(f"adapter.path: {path} holds no adapter_config.json; is it a PEFT adapter?")
    if not weights.is_file():
        raise ModelError(f"adapter.path: {path} holds no adapter_model.safetensors (pickled adapters are not loaded)")
    config = _read_config(config_file)
    problem = next(_option_problems(config), None)
    if problem is not None:
        raise ModelError(f"adapter.path: {config_file}: {problem}")
    try:
        entries = read_safetensors_header(weights)
    except HeaderProblem as header_problem:
        raise ModelError(f"adapter.path: {weights}: {header_problem}; copy the adapter again") from None
    problem = next(_weight_problems(entries, config), None)
    if problem is not None:
        raise ModelError(f"adapter.path: {weights}: {problem}")
    return config


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_CONFIG_BYTES + 1)
        config = json.loads(text.decode("utf-8")) if len(text) <= _MOST_CONFIG_BYTES else None
        kind = config["peft_type"]  # type: ignore[index]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelError(f"adapter.path: {path} is damaged") from None
    if kind != "LORA":
        raise ModelError(
            f"adapter.path: {path.parent} is a {str(kind)[:40]} adapter; only LoRA and its variants can be used"
        )
    return config  # type: ignore[return-value]


def _option_problems(config: Mapping[str, Any]) -> Iterator[str]:
    active = sorted(name for name, value in config.items() if value and name not in NEUTRAL)
    if active:
        yield f"uses {', '.join(active)[:200]}, which is not known here; use the adapter with peft itself"
    start = config.get("init_lora_weights", True)
    if not isinstance(start, bool) and start is not None and start not in INITIALISATIONS:
        yield (
            f"init_lora_weights is {str(start)[:40]!r}, so the adapter does not fit the base's own weights; convert it "
            "to plain LoRA first (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    yield from _number_problems(config)
    base = config.get("base_model_name_or_path")
    if base is not None and not isinstance(base, str):
        yield "base_model_name_or_path is no text"
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        yield f"bias is {str(config.get('bias'))[:40]!r}, which is unknown"
    for name in ("target_modules", "exclude_modules", "modules_to_save", "target_parameters", "layers_pattern"):
        yield from _name_problems(name, config.get(name))


def _number_problems(config: Mapping[str, Any]) -> Iterator[str]:
    for name, value in (("r", config.get("r", 8)), *_pattern(config, "rank_pattern")):
        if type(value) is not int or not 0 < value <= _MOST_RANK:
            yield f"{name} is {repr(value)[:40]}, which is no rank"
    for name, value in (("lora_alpha", config.get("lora_alpha", 8)), *_pattern(config, "alpha_pattern")):
        if type(value) not in (int, float) or not math.isfinite(value) or value <= 0:
            yield f"{name} is {repr(value)[:40]}, which is no positive number"
    dropout = config.get("lora_dropout", 0)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        yield f"lora_dropout is {repr(dropout)[:40]}, which is no share below 1"


def _pattern(config: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        yield name, patterns
        return
    for pattern, value in patterns.items():
        yield f"{name}[{pattern[:60]!r}]", "a dangerous pattern" if _is_dangerous(pattern) else value


def _name_problems(name: str, value: Any) -> Iterator[str]:
    for text in value if isinstance(value, list) else [value]:
        if text is None:
            continue
        if not isinstance(text, str):
            yield f"{name} holds {str(text)[:40]!r}, which is no name"
        elif _is_dangerous(text):
            yield f"{name} holds {text[:60]!r}, a regular expression that may search for ever or is none"


def _is_dangerous(pattern: str) -> bool:
    """Whether PEFT, which searches every module's path with a pattern, might not come to an end or fail at it."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        return True
    return (
        len(pattern) > 5000 or pattern.count("*") + pattern.count("+") > 12 or bool(_SEARCHES_FOR_EVER.search(pattern))
    )


def _weight_problems(entries: list[HeaderEntry], config: Mapping[str, Any]) -> Iterator[str]:
    if not entries:
        yield "holds no tensors; nothing was trained"
    stacked = bool(config.get("target_parameters"))
    for entry in entries:
        shown = repr(entry.name[:100])
        if not entry.name.startswith(PREFIX):
            yield f"tensor {shown} is not one of a PEFT adapter"
        if entry.dtype not in ("F64", "F32", "F16", "BF16"):
            yield f"tensor {shown} has the type {entry.dtype}; an adapter holds floating-point numbers"
        module, found, rest = entry.name.removeprefix(PREFIX).partition(".lora_")
        if not found or not rest.startswith(("A", "B", "embedding_A", "embedding_B")) or stacked:
            continue
        rank = rank_of(module, config)
        side = 0 if rest.removeprefix("embedding_").startswith("A") else 1
        if len(entry.shape) not in (2, 3, 4, 5) or entry.shape[side] != rank:
            yield f"tensor {shown} has the shape {entry.shape}, which is not of rank {rank} as adapter_config.json says"


def rank_of(module: str, config: Mapping[str, Any]) -> int:
    """Return a module's rank, its pattern first (peft.utils.other.get_pattern_key)."""
    for pattern, rank in (config.get("rank_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return rank
    return config.get("r", 8)
