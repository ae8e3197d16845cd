"""Rotary positions: which variants llama.cpp computes as transformers does, and the factors that the file carries.

Formulas: Llama 3.1's wavelength rule and LongRoPE (arxiv.org/abs/2402.13753), as in transformers' modeling_rope_utils.
"""

import math
import struct

from finetune.export.gguf.architectures.entries import Architecture
from finetune.export.gguf.architectures.settings import Settings
from finetune.export.gguf.tensors import GgufTensor

_KNOWN_OPTIONS = {
    *("rope_type", "type", "rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor"),
    *("low_freq_factor", "high_freq_factor", "long_factor", "short_factor", "attention_factor"),
    *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
}


def rope_problems(entry: Architecture, settings: Settings) -> list[str]:
    """List what about the rope cannot be written exactly."""
    rope = settings.rope
    if rope.kind not in entry.ropes:
        return [f"rope type {rope.kind!r} (written: {', '.join(entry.ropes)})"]
    problems = [f"rope option {key!r}" for key in sorted(set(rope.options) - _KNOWN_OPTIONS)]
    if rope.local_kind != "default":
        problems.append(f"rope type {rope.local_kind!r} of the layers with a sliding window")
    if rope.local_theta is not None and entry.name != "gemma3":
        problems.append("a rope per kind of layer")
    if rope.partial != 1.0 and entry.name != "phi3":
        problems.append(f"partial_rotary_factor {rope.partial:g}")
    if rope.kind in ("linear", "llama3", "yarn"):
        rope.number("factor", settings.where)
    if rope.kind == "llama3":
        rope.number("low_freq_factor", settings.where)
        rope.number("high_freq_factor", settings.where)
    if rope.kind == "yarn":
        problems += _yarn_problems(settings)
    if rope.kind == "longrope":
        problems += _longrope_problems(settings)
    return problems


def _yarn_problems(settings: Settings) -> list[str]:
    """llama.cpp takes yarn's own constants whatever the file says: 0.1 ln(factor) + 1, and a ramp from 32 to 1."""
    options, problems = settings.rope.options, []
    usual = max(1.0, 0.1 * math.log(settings.rope.number("factor")) + 1.0)
    given = options.get("attention_factor")
    if given is not None and not math.isclose(float(given), usual, rel_tol=1e-6):
        problems.append(f"yarn with attention_factor {given} (llama.cpp uses {usual:.6g})")
    for key, fixed in (("beta_fast", 32), ("beta_slow", 1)):
        if options.get(key) and float(options[key]) != fixed:
            problems.append(f"yarn with {key} {options[key]} (llama.cpp uses {fixed})")
    if options.get("mscale") and options.get("mscale_all_dim"):
        problems.append("yarn with mscale and mscale_all_dim")
    if options.get("truncate") is False:
        problems.append("yarn with truncate false")
    return problems


def _longrope_problems(settings: Settings) -> list[str]:
    problems = []
    for key in ("long_factor", "short_factor"):
        factors = settings.rope.options.get(key)
        if not isinstance(factors, list) or len(factors) != rotated_dimensions(settings) // 2:
            problems.append(f"{key} that is no list of {rotated_dimensions(settings) // 2} numbers")
    return problems


def rotated_dimensions(settings: Settings) -> int:
    """Return how many of a head's dimensions are rotated."""
    return int(settings.head_dim * settings.rope.partial)


def original_context(settings: Settings) -> int:
    """Return the context length in tokens before it was stretched."""
    return settings.rope.original_context or settings.context


def longrope_attention_factor(settings: Settings) -> float:
    """Return the factor of cos and sin under LongRoPE, sqrt(1 + ln s / ln L) for a stretch s of L tokens."""
    options, original = settings.rope.options, original_context(settings)
    if options.get("attention_factor") is not None:
        return settings.rope.number("attention_factor")
    stretch = settings.rope.number("factor") if options.get("factor") is not None else settings.context / original
    return math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0


def rope_tensors(entry: Architecture, settings: Settings) -> list[GgufTensor]:
    """Return the tensors of frequency factors that the file carries: none but for llama3 and longrope."""
    rope = settings.rope
    if rope.kind == "llama3":
        return [_vector("rope_freqs.weight", _llama3_factors(settings))]
    if rope.kind == "longrope":
        return [
            _vector("rope_factors_long.weight", [float(value) for value in rope.options["long_factor"]]),
            _vector("rope_factors_short.weight", [float(value) for value in rope.options["short_factor"]]),
        ]
    return []


def _vector(name: str, values: list[float]) -> GgufTensor:
    return GgufTensor(name=name, shape=(len(values),), values=tuple(values), always_f32=True)


def _llama3_factors(settings: Settings) -> list[float]:
    """Divisors of the frequencies, by wavelength: 1 for short ones, `factor` for long ones, a blend in between.

    Computed step by step in 32 bits as llama.cpp's converter does under torch, to give the same bits: there a number
    divided by a tensor is the tensor's reciprocal times the number, rounded twice.
    """
    rope, width = settings.rope, settings.head_dim
    factor, low, high = rope.number("factor"), rope.number("low_freq_factor"), rope.number("high_freq_factor")
    original = original_context(settings)
    factors = []
    for index in range(0, width, 2):
        frequency = _f32(1.0 / _f32(rope.theta ** _f32(index / width)))
        wavelength = _f32(_f32(1.0 / frequency) * _f32(2 * math.pi))
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = _f32(_f32(_f32(_f32(1.0 / wavelength) * original) - low) / (high - low))
            factors.append(_f32(1.0 / _f32(_f32(_f32(1.0 - smooth) / factor) + smooth)))
    return factors


def _f32(value: float) -> float:
    """Round to the nearest 32-bit number."""
    return struct.unpack("<f", struct.pack("<f", value))[0]
