"""The GGUF metadata keys of an architecture, with the types and values that llama.cpp's converter gives them.

Written where the converter is silent or wrong, only in models where it matters: Falcon's and Gemma 2's rope base if it
is not 10,000, Falcon's context length (the converter: always 2,048), Gemma's pattern of sliding windows if it is not
llama.cpp's own, LongRoPE's attention factor if config.json states one.
"""

from collections.abc import Mapping
from typing import Any

from finetune.export.gguf.architectures.entries import Architecture
from finetune.export.gguf.architectures.plan import feed_forward, num_kv_heads
from finetune.export.gguf.architectures.rope import (
    longrope_attention_factor,
    original_context,
    rotated_dimensions,
)
from finetune.export.gguf.architectures.settings import Settings


class Signed(int):
    """A whole number that the file keeps as a signed 32-bit one; plain ones are unsigned."""


Value = int | float | bool | str | list[bool]

_SAMPLING: dict[str, tuple[tuple[str, ...], type]] = {
    "top_k": (("top_k",), Signed),
    "top_p": (("top_p",), float),
    "min_p": (("min_p",), float),
    "temp": (("temperature",), float),
    "penalty_repeat": (("penalty_repeat", "repetition_penalty"), float),
}
"""Keys under general.sampling, the names in generation_config.json, the type."""


def architecture_keys(entry: Architecture, settings: Settings) -> dict[str, Value]:
    """Return the keys under the architecture's name, without that prefix."""
    keys: dict[str, Value] = {
        "block_count": settings.layers,
        "context_length": settings.context,
        "embedding_length": settings.hidden,
        "feed_forward_length": feed_forward(entry, settings),
        "attention.head_count": settings.heads,
        "attention.head_count_kv": num_kv_heads(entry, settings),
    }
    if entry.name == "falcon":
        return keys | _falcon_keys(settings)
    keys["attention.layer_norm_rms_epsilon"] = settings.number("rms_norm_eps")
    if settings.written_head_dim or entry.derives_head_dim:
        keys |= {"attention.key_length": settings.head_dim, "attention.value_length": settings.head_dim}
    if entry.states_vocabulary:
        keys |= {"vocab_size": settings.integer("vocab_size"), "rope.dimension_count": settings.head_dim}
    if entry.experts:
        keys["expert_count"] = settings.integer(*entry.experts.count_keys)
        keys["expert_used_count"] = settings.integer("num_experts_per_tok")
    if entry.name == "qwen3moe":
        keys["expert_feed_forward_length"] = settings.integer("moe_intermediate_size")
    keys |= _rope_keys(entry, settings)
    if entry.period:
        keys |= _gemma_keys(entry, settings)
    own = {"phi3": _phi3_keys, "granite": _granite_keys}
    return keys | own[entry.name](settings) if entry.name in own else keys


def sampling_keys(generation: Mapping[str, Any] | None) -> dict[str, Value]:
    """Return generation_config.json's recommended sampling as general.sampling keys."""
    keys: dict[str, Value] = {}
    for name, (sources, kind) in _SAMPLING.items():
        value = next((generation[key] for key in sources if generation and generation.get(key) is not None), None)
        if value is not None:
            keys[f"general.sampling.{name}"] = kind(value)
    return keys


def _rope_keys(entry: Architecture, settings: Settings) -> dict[str, Value]:
    rope = settings.rope
    if entry.name == "gemma2" and rope.theta == 10000.0:
        return {}
    keys: dict[str, Value] = {"rope.freq_base": rope.theta}
    if rope.local_theta is not None:
        keys["rope.freq_base_swa"] = rope.local_theta
    if rope.kind in ("linear", "yarn"):
        keys |= {"rope.scaling.type": rope.kind, "rope.scaling.factor": rope.number("factor")}
    if rope.kind == "yarn":
        keys["rope.scaling.original_context_length"] = original_context(settings)
        for key in ("beta_fast", "beta_slow"):
            if rope.options.get(key):
                keys[f"rope.scaling.yarn_{key}"] = rope.number(key)
    return keys


def _falcon_keys(settings: Settings) -> dict[str, Value]:
    keys: dict[str, Value] = {
        "tensor_data_layout": "jploski",
        "attention.layer_norm_epsilon": settings.number("layer_norm_epsilon"),
    }
    if settings.rope.theta != 10000.0:
        keys["rope.freq_base"] = settings.rope.theta
    return keys


def _gemma_keys(entry: Architecture, settings: Settings) -> dict[str, Value]:
    keys: dict[str, Value] = {
        f"{part}_logit_softcapping": settings.number(f"{part}_logit_softcapping")
        for part in ("attn", "final")
        if settings.raw.get(f"{part}_logit_softcapping")
    }
    period = settings.integer("sliding_window_pattern", "_sliding_window_pattern", default=entry.period)
    pattern = settings.sliding_layers(period)
    if any(pattern):
        keys["attention.sliding_window"] = settings.integer("sliding_window")
    if any(pattern) and pattern != settings.periodic_layers(entry.period):
        keys["attention.sliding_window_pattern"] = pattern
    return keys


def _phi3_keys(settings: Settings) -> dict[str, Value]:
    keys: dict[str, Value] = {
        "rope.dimension_count": rotated_dimensions(settings),
        "rope.scaling.original_context_length": original_context(settings),
        "attention.sliding_window": settings.integer("sliding_window") if settings.flag("sliding_window") else 0,
    }
    if settings.rope.kind == "longrope":
        keys["rope.scaling.attn_factor"] = longrope_attention_factor(settings)
    return keys


def _granite_keys(settings: Settings) -> dict[str, Value]:
    names = {
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }
    return {name: settings.number(key) for name, key in names.items()}
