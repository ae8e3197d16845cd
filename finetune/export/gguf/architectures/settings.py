"""Reads a config.json, old and new spelling, into the figures that the GGUF entries work with. Standard library only.

transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 one `rope_parameters`; both are read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """The rotary position embedding of the layers that attend to the whole context."""

    kind: str
    """default, linear, llama3, yarn, longrope, or a name that no entry knows."""
    theta: float
    """Base of the frequencies."""
    local_theta: float | None
    """Base in layers with a sliding window, where it differs (Gemma 3)."""
    local_kind: str
    """Kind in layers with a sliding window."""
    partial: float
    """Share of a head's dimensions that is rotated."""
    original_context: int | None
    """Context length in tokens before it was stretched."""
    options: Mapping[str, Any]
    """The rope section as written: factor, low_freq_factor, long_factor, …"""

    def number(self, key: str, where: str = "config.json") -> float:
        """Return a number of the rope section.

        Raises:
            ConfigError: it is absent or no number.
        """
        return _number(self.options.get(key), f"the rope section's {key}", where)


class Settings:
    """One config.json with the defaults of its model class filled in; a null counts as absent."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any], where: str = "config.json") -> None:
        self.raw: dict[str, Any] = {**defaults, **text_config(config)}
        self.where = where
        self.hidden = self.integer("hidden_size")
        self.layers = self.integer("num_hidden_layers", "n_layer")
        self.heads = self.integer("num_attention_heads", "n_head")
        self.kv_heads = self.integer("num_key_value_heads", default=self.heads)
        self.written_head_dim = self.integer("head_dim", default=0)
        self.head_dim = self.written_head_dim or self.hidden // self.heads
        self.context = self.integer("max_position_embeddings")
        self.rope = _read_rope(self)

    def integer(self, *keys: str, default: int | None = None) -> int:
        """Return the first whole number among `keys`, or `default`.

        Raises:
            ConfigError: none is there and there is no default, or it is no positive whole number.
        """
        for key in keys:
            value = self.raw.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value % 1:
                raise ConfigError(f"{self.where}: {key} is {value!r}; it must be a positive whole number")
            return int(value)
        if default is None:
            raise ConfigError(f"{self.where}: {keys[0]} is missing; fetch the model's config.json again")
        return default

    def number(self, key: str) -> float:
        """Return a number.

        Raises:
            ConfigError: it is absent or no number.
        """
        return _number(self.raw.get(key), key, self.where)

    def flag(self, key: str) -> bool:
        """Return whether a switch is on; an absent one is off."""
        return bool(self.raw.get(key))

    def sequence(self, key: str) -> list[Any] | None:
        """Return a list, or None where it is absent."""
        value = self.raw.get(key)
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else None

    def sliding_layers(self, period: int) -> list[bool]:
        """Say for each layer whether it has a sliding window; without `layer_types` each `period`-th layer has none."""
        types = self.sequence("layer_types")
        if types is not None:
            return [kind == "sliding_attention" for kind in types]
        return self.periodic_layers(period)

    def periodic_layers(self, period: int) -> list[bool]:
        """Return true for each layer but every `period`-th."""
        return [(number + 1) % period != 0 for number in range(self.layers)]


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the language model: the whole, with `text_config` of a multimodal one moved up."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else dict(config)


def _read_rope(settings: Settings) -> Rope:
    raw = settings.raw
    section = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{settings.where}: rope_parameters is {section!r}; a mapping is expected")
    full, local = section, {"rope_theta": raw.get("rope_local_base_freq")}
    if "full_attention" in section or "sliding_attention" in section:
        full, local = section.get("full_attention") or {}, section.get("sliding_attention") or {}
    theta = full.get("rope_theta") or raw.get("rope_theta") or 10000.0
    local_theta = local.get("rope_theta")
    # transformers prefers the key outside the section, Phi-3's default of it included
    original = raw.get("original_max_position_embeddings") or full.get("original_max_position_embeddings")
    partial = full.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0
    return Rope(
        kind=_kind(full),
        theta=_number(theta, "rope_theta", settings.where),
        local_theta=None if local_theta is None else _number(local_theta, "rope_local_base_freq", settings.where),
        local_kind=_kind(local),
        partial=_number(partial, "partial_rotary_factor", settings.where),
        original_context=None if original is None else int(_number(original, "original context", settings.where)),
        options=full,
    )


def _kind(section: Mapping[str, Any]) -> str:
    kind = str(section.get("rope_type") or section.get("type") or "default").lower()
    return "longrope" if kind == "su" else kind


def _number(value: object, key: str, where: str) -> float:
    if value is None:
        raise ConfigError(f"{where}: {key} is missing; fetch the model's config.json again")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where}: {key} is {value!r}; it must be a number")
    return float(value)
