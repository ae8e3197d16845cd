"""Sections `model`, `adapter` and `quantization`: which weights, what is trained of them, in how many bits."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from finetune.config.checks import at_least, positive
from finetune.config.values import MISSING, AdapterMethod, CommercialUse, Dtype, QuantizationMethod


@dataclass(kw_only=True, slots=True)
class ShapeConfig:
    """The model's sizes, so that a plan needs no download; checked against config.json where that is there."""

    num_layers: int = MISSING
    """Transformer blocks."""
    hidden_size: int = MISSING
    """Width of the residual stream."""
    intermediate_size: int = MISSING
    """Width of the feed-forward layer (of one expert in a mixture)."""
    num_heads: int = MISSING
    """Query heads."""
    num_kv_heads: int = MISSING
    """Key and value heads."""
    head_dim: int = MISSING
    """Width of one head."""
    vocab_size: int = MISSING
    """Rows of the embedding."""
    tied_embeddings: bool = False
    """Whether the output head is the embedding."""
    num_experts: int = 0
    """Experts per layer; 0 for a dense model."""
    experts_per_token: int = 0
    """Experts that a token runs through; 0 for a dense model."""


@dataclass(kw_only=True, slots=True)
class RecommendedConfig:
    """What depends on the model's size; recipes refer to it, such as `${model.recommended.learning_rate}`.

    A local model's YAML leaves them open; they are then derived from its config.json (`model.shape`).
    """

    learning_rate: float = MISSING
    """Peak learning rate for LoRA with AdamW."""
    max_length: int = MISSING
    """Longest document in tokens; longer costs memory."""
    micro_batch_tokens: int | str = MISSING
    """Tokens per forward pass and process, or `auto`; more costs memory."""
    batch_tokens: int = MISSING
    """Tokens per optimizer step over all processes."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The base model: a local folder (`path`) or a hub id."""

    name: str = MISSING
    """Short name, for messages and the model card."""
    path: str | None = None
    """Folder with config.json, safetensors weights and tokenizer. Set, it is used instead of the hub."""
    hub_id: str | None = None
    """`owner/name` on the Hugging Face hub."""
    revision: str = "main"
    """Branch, tag or commit on the hub; a commit makes the run reproducible."""
    license: str = "unknown"
    """SPDX identifier, or the licence's own name."""
    license_url: str | None = None
    """Where the licence's text stands."""
    commercial_use: CommercialUse = CommercialUse.unknown
    """What the licence says about `use=commercial`."""
    gated: bool = False
    """Whether the hub asks for an account that has accepted the licence."""
    context_length: int = MISSING
    """Longest input in tokens that the model was made for; a local model's is read from its config.json."""
    chat_template: str = "auto"
    """`auto`: the tokenizer's own, else `plain`; a name (chatml, plain); or a path to a Jinja file."""
    needs_gpu: bool = True
    """Whether training it without a GPU is refused, because it would take days."""
    dtype: Dtype = Dtype.auto
    """Type of the frozen weights and of the arithmetic."""
    shape: ShapeConfig | None = None
    """Sizes; None for a model that is known by its folder only."""
    recommended: RecommendedConfig = field(default_factory=RecommendedConfig)
    """Defaults that depend on the model's size."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        if self.path is None and self.hub_id is None:
            yield "model.path: not set. Give the folder of the base model (model.path=…) or choose one (model=embedded)"
        if self.hub_id is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.hub_id):
            yield f"model.hub_id: {self.hub_id!r} is no hub id; write owner/name"
        yield from at_least("model.context_length", self.context_length, 8)


@dataclass(kw_only=True, slots=True)
class AdapterConfig:
    """The trainable part: low-rank matrices beside the frozen linear layers."""

    method: AdapterMethod = AdapterMethod.lora
    """LoRA or a variant of it."""
    path: str | None = None
    """Folder of a PEFT adapter to go on from; its rank, alpha and targets are kept."""
    rank: int = 16
    """Width of the low-rank matrices; higher learns more and costs memory."""
    alpha: float = 32.0
    """Scale of the update: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
    dropout: float = 0.0
    """Dropout before the low-rank matrices."""
    target_modules: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names (or name endings) of the linear layers to adapt; `all-linear` is all but the output head."""
    modules_to_save: list[str] = field(default_factory=list)
    """Modules trained and saved in full, such as embed_tokens; costs memory."""
    lora_plus_ratio: float | None = None
    """LoRA+: learning rate of the B matrices over that of A (Hayou et al. 2024); None uses one rate."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        yield from at_least("adapter.rank", self.rank, 1)
        yield from positive("adapter.alpha", self.alpha)
        if not 0 <= self.dropout < 1:
            yield f"adapter.dropout: {self.dropout} is not in [0, 1)"
        if not self.target_modules:
            yield "adapter.target_modules: empty; nothing would be trained. Use [all-linear]"
        if self.lora_plus_ratio is not None:
            yield from positive("adapter.lora_plus_ratio", self.lora_plus_ratio)


@dataclass(kw_only=True, slots=True)
class QuantizationConfig:
    """How the frozen base weights are held while training."""

    method: QuantizationMethod = QuantizationMethod.none
    """nf4 (QLoRA, 0.52 bytes a weight), int8 (1 byte) or none."""
    double_quantization: bool = True
    """Quantise NF4's scales too: saves 0.05 bytes a weight."""
