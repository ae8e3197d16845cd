"""4-bit weights: gradients flow whatever was run before, mixtures are refused, the round trip is what was trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.config import AdapterConfig, ModelConfig, QuantizationConfig, QuantizationMethod, ShapeConfig
from finetune.errors import ModelError
from finetune.model.adapter import add_adapter
from finetune.model.hardware import Hardware
from finetune.model.load import load_base, load_tokenizer
from finetune.model.quantize import check_quantizable, round_trip_nf4

NF4 = QuantizationConfig(method=QuantizationMethod.nf4)
CPU = Hardware(torch.device("cpu"), torch.float32, "test")


def loaded(folder: Path, quantization: QuantizationConfig, dtype: torch.dtype = torch.float32) -> Any:
    config = ModelConfig(name="tiny", path=str(folder), context_length=512, needs_gpu=False)
    return load_base(folder, config, quantization, Hardware(CPU.device, dtype, "test"), load_tokenizer(folder)).model


def gradients(model: Any) -> dict[str, torch.Tensor]:
    model.train()
    ids = torch.arange(10, 42)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measuring_first_does_not_cost_the_gradients(tiny_model_dir: Path, dtype: torch.dtype) -> None:
    model = add_adapter(loaded(tiny_model_dir, NF4, dtype), AdapterConfig(rank=4), seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    before = gradients(model)
    model.eval()
    with torch.no_grad():
        model(input_ids=torch.arange(10, 42)[None])
    after = gradients(model)
    assert before.keys() == after.keys() and len(after) == 2 * 2 * 7
    for name in before:
        assert before[name].abs().sum() > 0, name
        torch.testing.assert_close(after[name], before[name], rtol=1e-2, atol=1e-6)


def test_adapters_are_fp32_and_the_base_is_frozen_and_packed(tiny_model_dir: Path) -> None:
    model = add_adapter(loaded(tiny_model_dir, NF4), AdapterConfig(rank=4), seed=0)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trainable and all(parameter.dtype == torch.float32 for parameter in trainable)
    assert model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.uint8
    assert model.get_input_embeddings().weight.dtype == torch.float32  # as loaded, not cast up from 16 bits later


def test_int8_loads_and_has_gradients(tiny_model_dir: Path) -> None:
    int8 = QuantizationConfig(method=QuantizationMethod.int8)
    model = add_adapter(loaded(tiny_model_dir, int8), AdapterConfig(rank=4), seed=0)
    assert len(gradients(model)) > 0


@pytest.mark.parametrize("double", [True, False])
def test_the_round_trip_equals_the_loaded_layer(tiny_model_dir: Path, double: bool) -> None:
    nf4 = QuantizationConfig(method=QuantizationMethod.nf4, double_quantization=double)
    quantized, plain = loaded(tiny_model_dir, nf4), loaded(tiny_model_dir, QuantizationConfig())
    layer = quantized.model.layers[0].mlp.up_proj
    inputs = torch.randn(3, 64)
    weight = round_trip_nf4(plain.model.layers[0].mlp.up_proj.weight.data, double_quantization=double)
    torch.testing.assert_close(layer(inputs), inputs @ weight.T, rtol=1e-4, atol=1e-5)


def test_a_mixture_of_experts_is_refused_with_the_memory_figure() -> None:
    sizes = {"num_layers": 32, "hidden_size": 4096, "intermediate_size": 14336, "num_heads": 32, "num_kv_heads": 8}
    mixtral = ShapeConfig(**sizes, head_dim=128, vocab_size=32000, num_experts=8)
    with pytest.raises(ModelError, match="90 GB"):
        check_quantizable(NF4, mixtral, "mixtral_8x7b")
    check_quantizable(QuantizationConfig(), mixtral, "mixtral_8x7b")
