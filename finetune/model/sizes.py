"""How many weights a model and an adapter have, by kind, from the shape alone; used by the memory and time models.

Legend: D hidden size, I feed-forward, Q query width (heads x head size), K key/value width, r rank.
"""

from dataclasses import dataclass

from finetune.config import AdapterConfig, AdapterMethod, ShapeConfig

ALL_LINEAR = "all-linear"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Names of layers that some families store as one."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of weights of one model."""

    linear: int
    """In all linear layers of dense feed-forwards and of attention: what quantisation takes hold of."""
    experts: int
    """In the experts of a mixture, which stay unquantised (`quantize.check_quantizable`)."""
    embedding: int
    """In one embedding matrix, V x D."""
    head: int
    """In an output head of its own; 0 where it is the embedding."""
    active: int
    """Of `linear` and `experts`, those that one token runs through."""

    @property
    def total(self) -> int:
        return self.linear + self.experts + self.embedding + self.head


def widths(shape: ShapeConfig) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of each linear layer of a block; a mixture's experts are not among them."""
    hidden, query, key = shape.hidden_size, shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    found = {"q_proj": (hidden, query), "k_proj": (hidden, key), "v_proj": (hidden, key), "o_proj": (query, hidden)}
    if not shape.num_experts:
        inner = shape.intermediate_size
        found |= {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    return found


def sizes_of(shape: ShapeConfig) -> Sizes:
    """Count a Llama-like model's weights (gated feed-forward); norms and biases, under 0.1 %, are left out."""
    linear = shape.num_layers * sum(inputs * outputs for inputs, outputs in widths(shape).values())
    expert = shape.num_layers * 3 * shape.hidden_size * shape.intermediate_size
    embedding = shape.vocab_size * shape.hidden_size
    return Sizes(
        linear=linear,
        experts=shape.num_experts * expert,
        embedding=embedding,
        head=0 if shape.tied_embeddings else embedding,
        active=linear + min(shape.experts_per_token or 2, shape.num_experts) * expert,
    )


def adapted_layers(shape: ShapeConfig, adapter: AdapterConfig) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of the linear layers of a block that carry an adapter."""
    known = widths(shape)
    if ALL_LINEAR in adapter.target_modules:
        return list(known.values())
    names = {part for target in adapter.target_modules for part in _FUSED.get(_last(target), (_last(target),))}
    return [known[name] for name in sorted(names & known.keys())]


def _last(target: str) -> str:
    return target.rpartition(".")[2]


def num_adapter_parameters(shape: ShapeConfig, adapter: AdapterConfig) -> int:
    """Return the number of trainable weights: r (inputs + outputs) for each adapted layer.

    DoRA adds one magnitude per output; modules that are trained in full count whole.
    """
    layers = adapted_layers(shape, adapter)
    per_block = sum(adapter.rank * (inputs + outputs) for inputs, outputs in layers)
    if adapter.method is AdapterMethod.dora:
        per_block += sum(outputs for _, outputs in layers)
    whole = sum(_last(name) in ("embed_tokens", "lm_head", "wte") for name in adapter.modules_to_save)
    return shape.num_layers * per_block + whole * shape.vocab_size * shape.hidden_size
