"""Chooses the type of every tensor of a GGUF file, as llama.cpp's converter and quantiser choose it.

F32, F16, BF16 and Q8_0 follow `convert_hf_to_gguf.py`; the smaller formats follow `llama_tensor_get_type` in
llama.cpp's src/llama-quant.cpp: tensors that the answer hangs on more get more bits. Called by the GGUF export once
the tensors are planned. Knows neither torch nor gguf.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.errors import ConfigError, did_you_mean
from finetune.export.gguf.quantize import block_width
from finetune.export.gguf.tensors import GgufTensor

FILE_TYPES: Mapping[str, int] = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 7,
    "Q2_K": 10,
    "Q3_K_M": 12,
    "Q4_K_S": 14,
    "Q4_K_M": 15,
    "Q5_K_S": 16,
    "Q5_K_M": 17,
    "Q6_K": 18,
    "IQ4_XS": 30,
    "BF16": 32,
}
"""Value of the key `general.file_type` for every format of a file. None of them must have an importance matrix; with
one, IQ4_XS spends fewer bits and Q4_0 more on the first layers."""

_MOST_COMMON = {"Q3_K_M": "Q3_K", "Q4_K_S": "Q4_K", "Q4_K_M": "Q4_K", "Q5_K_S": "Q5_K", "Q5_K_M": "Q5_K"}
"""Type that most tensors of a format get; a format not listed is named after it."""

_NARROWER_BLOCKS = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0", "Q3_K": "Q4_0", "Q2_K": "Q4_0", "IQ4_XS": "IQ4_NL"}
"""What takes the place of a type whose blocks of 256 do not fit the width."""

_NEVER_QUANTIZED = ("_norm.weight", "ffn_gate_inp.weight", "position_embd.weight", "token_types.weight")

_VALUE_PARTS = ("attn_v.weight", "attn_qkv.weight")

_MANY_EXPERTS_OUTPUT = frozenset({"Q2_K", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ4_XS"})
"""Formats whose attention output gets Q5_K in a model of 8 experts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelShape:
    """What the choice depends on beside the tensors."""

    architecture: str
    """Value of the key `general.architecture`, such as llama."""
    num_layers: int
    num_heads: int
    """Query heads of a layer."""
    num_kv_heads: int
    num_experts: int = 0
    """Experts of a layer; 0 for a dense model."""
    has_importance: bool = False
    """Whether an importance matrix is used."""

    @property
    def heads_per_kv_head(self) -> int:
        """Query heads that share one key and value head."""
        return self.num_heads // self.num_kv_heads if self.num_kv_heads else 0

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes the model for one of 70 B parameters, whose shared values get more bits."""
        if self.architecture == "llama":
            return self.num_layers == 80 and self.num_heads != self.num_kv_heads
        return self.architecture == "qwen2" and self.num_layers == 80


def choose_types(tensors: Sequence[GgufTensor], format_name: str, shape: ModelShape) -> dict[str, str]:
    """Name the type of every tensor, in the order given; `format_name` is a key of FILE_TYPES.

    Raises:
        ConfigError: there is no such format.
    """
    if format_name not in FILE_TYPES:
        raise ConfigError(
            f"{format_name!r} is no GGUF format that can be written.{did_you_mean(format_name, FILE_TYPES)}"
        )
    chooser = _Chooser(tensors, format_name, shape)
    chosen = {tensor.name: chooser.next_type(tensor) for tensor in sorted(tensors, key=_llama_cpp_order)}
    return {tensor.name: chosen[tensor.name] for tensor in tensors}


class _Chooser:
    """Goes through the tensors in llama.cpp's order, because some rules count what came before."""

    def __init__(self, tensors: Sequence[GgufTensor], format_name: str, shape: ModelShape) -> None:
        names = [tensor.name for tensor in tensors]
        self.format = format_name
        self.shape = shape
        self.is_falcon = shape.architecture == "falcon"
        self.is_tied = "output.weight" not in names
        self.num_values = sum(_is_value(name) for name in names)
        self.values_seen = 0
        self.downs_seen = 0

    def next_type(self, tensor: GgufTensor) -> str:
        """Type of the next tensor."""
        common = _MOST_COMMON.get(self.format, self.format)
        if not _may_be_quantized(tensor):
            return "F32"
        if block_width(common) == 1:
            return common
        return _fitting(self._wanted(tensor, common), tensor.shape[-1])

    def _wanted(self, tensor: GgufTensor, common: str) -> str:
        """The type that the tensor's part in the model asks for, whether or not its width allows it."""
        name = tensor.name
        if name == "output.weight" or (name == "token_embd.weight" and self.is_tied):
            if self.is_falcon or tensor.shape[-1] % block_width(common) or common == "Q8_0":
                return "Q8_0"
            return "Q6_K"
        if _is_value(name):
            self.values_seen += 1
            return self._value_type(self.values_seen - 1, common)
        if "attn_k.weight" in name:
            return "Q8_0" if self.shape.num_experts == 8 else common
        if "ffn_down" in name:
            self.downs_seen += 1
            return self._down_type(self._layer_of_down(name), common)
        if "attn_output.weight" in name:
            return self._attention_output_type(common)
        return common

    def _value_type(self, index: int, common: str) -> str:
        """Type of the values' projection, alone or fused with queries and keys; the index-th of its kind."""
        shared = self.shape.heads_per_kv_head >= 4
        wanted = common
        if self.format == "Q2_K":
            wanted = "Q4_K" if shared else "Q3_K"
        elif self.format == "Q3_K_M":
            wanted = "Q5_K" if index < 2 else "Q4_K"
        elif self.format == "IQ4_XS" and shared:
            wanted = "Q5_K"
        elif self.format in ("Q4_K_M", "Q5_K_M") and _gets_more_bits(index, self.num_values):
            wanted = "Q6_K"
        elif self.format == "Q4_K_S" and index < 4:
            wanted = "Q5_K"
        if self.shape.is_70b and wanted in ("Q3_K", "Q4_K"):
            wanted = "Q5_K"
        return "Q8_0" if self.shape.num_experts == 8 else wanted

    def _down_type(self, layer: int, common: str) -> str:
        """Type of the second matrix of the feed-forward part."""
        num_layers = self.shape.num_layers
        more = _gets_more_bits(layer, num_layers)
        first_eighth, first_sixteenth = layer < num_layers // 8, layer < num_layers // 16
        falcon_q4 = "Q6_K" if first_sixteenth else "Q5_K" if more else "Q4_K"
        wanted = {
            "Q2_K": "Q3_K",
            "Q3_K_M": "Q5_K" if first_sixteenth else "Q4_K" if more or not self.is_falcon else "Q3_K",
            "Q4_K_M": falcon_q4 if self.is_falcon else "Q6_K" if more else "Q4_K",
            "Q4_K_S": "Q5_K" if first_eighth and not self.is_falcon else "Q4_K",
            "Q5_K_M": "Q6_K" if more else "Q5_K",
            "IQ4_XS": "Q5_K" if first_eighth and not self.shape.has_importance else "IQ4_XS",
            "Q4_0": "Q4_1" if first_eighth and self.shape.has_importance else "Q4_0",
        }
        return wanted.get(self.format, common)

    def _layer_of_down(self, name: str) -> int:
        """The layer as llama.cpp counts it: by number among experts, else by how many came before."""
        return _layer(name) if self.shape.num_experts > 1 else self.downs_seen - 1

    def _attention_output_type(self, common: str) -> str:
        if self.is_falcon:
            return common
        if self.shape.num_experts == 8:
            return "Q5_K" if self.format in _MANY_EXPERTS_OUTPUT else common
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K"}.get(self.format, common)


def _may_be_quantized(tensor: GgufTensor) -> bool:
    """Whether a tensor takes the format at all; vectors, norms, routers and what is no weight stay in 32 bits."""
    is_vector = len(tensor.shape) < 2 or math.prod(tensor.shape[:-1]) == 1
    if tensor.always_f32 or is_vector or not tensor.name.endswith(".weight"):
        return False
    return not tensor.name.endswith(_NEVER_QUANTIZED)


def _fitting(wanted: str, width: int) -> str:
    """The wanted type, or the one that stands in for it where a row is no whole number of its blocks."""
    if width % block_width(wanted):
        wanted = _NARROWER_BLOCKS.get(wanted, wanted)
    return wanted if width % block_width(wanted) == 0 else "F16"


def _gets_more_bits(index: int, total: int) -> bool:
    """Whether a layer is in the first eighth, the last eighth or every third between them."""
    return index < total // 8 or index >= 7 * total // 8 or (index - total // 8) % 3 == 2


def _is_value(name: str) -> bool:
    return any(part in name for part in _VALUE_PARTS)


def _layer(name: str) -> int:
    """Number of the layer, -1 outside the layers."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _llama_cpp_order(tensor: GgufTensor) -> tuple[int, str]:
    return _layer(tensor.name), tensor.name
