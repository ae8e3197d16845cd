"""The frozen base in 4 or 8 bits: the one file that knows bitsandbytes."""

from typing import TYPE_CHECKING, Any

from finetune.config import QuantizationConfig, QuantizationMethod, ShapeConfig
from finetune.errors import ModelError

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

_GIGABYTE = 1e9


def check_quantizable(quantization: QuantizationConfig, shape: ShapeConfig | None, name: str) -> None:
    """Refuse to quantise mixtures of experts, whose fused expert weights would stay in 16 bits.

    Raises:
        ModelError: with the memory that the run would really need.
    """
    if quantization.method is QuantizationMethod.none or shape is None or not shape.num_experts:
        return
    expert_weights = 3 * shape.hidden_size * shape.intermediate_size * shape.num_experts * shape.num_layers
    raise ModelError(
        f"quantization={quantization.method.name}: the {shape.num_experts} experts of model={name} are stored as fused "
        f"weights that cannot be quantised, so it would still need {2 * expert_weights / _GIGABYTE:.0f} GB; "
        "use quantization=none on GPUs with that memory, or a dense model such as model=qwen3_8b"
    )


def quantization_arguments(quantization: QuantizationConfig, dtype: "torch.dtype") -> "BitsAndBytesConfig | None":
    """Return what `from_pretrained` needs to quantise while loading; None leaves the weights as they are."""
    if quantization.method is QuantizationMethod.none:
        return None
    from transformers import BitsAndBytesConfig

    if quantization.method is QuantizationMethod.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization.double_quantization,
        bnb_4bit_compute_dtype=dtype,
        # FSDP shards parameters of one type only, so the packed 4-bit weights pretend to be of the compute type.
        bnb_4bit_quant_storage="uint8",
    )


def keep_differentiable(model: Any) -> None:
    """Keep 4-bit layers in the one layout that has a gradient.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks 4-bit weights at the first forward pass in evaluation mode, for
    a faster kernel that has no backward pass; a training that measures the validation loss first would then silently
    lose the gradients of all earlier layers.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def round_trip_nf4(weight: "torch.Tensor", *, double_quantization: bool = True) -> "torch.Tensor":
    """Quantise a weight matrix to NF4 and expand it again: the weights that QLoRA trained on.

    Returns a tensor of the same shape and type. Source: Dettmers et al. 2023 (QLoRA), section 3.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(
        weight.contiguous(), blocksize=64, quant_type="nf4", compress_statistics=double_quantization
    )
    return dequantize_4bit(packed, state).to(weight.dtype)
