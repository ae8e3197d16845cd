"""The memory model against published measurements, against what autograd really keeps, and against common sense."""

from dataclasses import replace
from typing import Any

import pytest

from finetune.config import AdapterConfig, AdapterMethod, QuantizationConfig, QuantizationMethod, ShapeConfig, Sharding
from finetune.model.memory import Stack, Workload, evaluation_bytes, export_host_bytes, layer_bytes, training_parts
from finetune.model.sizes import num_adapter_parameters, sizes_of

GIB, GB = 2**30, 1e9
NF4, NONE = QuantizationMethod.nf4, QuantizationMethod.none


def llama(layers: int, hidden: int, inner: int, heads: int, kv_heads: int, vocabulary: int, **more: Any) -> ShapeConfig:
    return ShapeConfig(
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=more.pop("head_dim", hidden // heads),
        vocab_size=vocabulary,
        **more,
    )


LLAMA_2_7B = llama(32, 4096, 11008, 32, 32, 32000)
LLAMA_3_8B = llama(32, 4096, 14336, 32, 8, 128_256)
LLAMA_3_70B = llama(80, 8192, 28672, 64, 8, 128_256)
MIXTRAL = llama(32, 4096, 14336, 32, 8, 32000, num_experts=8, experts_per_token=2)


def work(shape: ShapeConfig, method: QuantizationMethod = NF4, *, rank: int = 16, **more: Any) -> Workload:
    settings: dict[str, Any] = {
        "quantization": QuantizationConfig(method=method),
        "adapter": AdapterConfig(rank=rank),
        "micro_batch_tokens": 2048,
        "recomputed_layers": shape.num_layers,
    }
    return Workload(shape=shape, **(settings | more))


TORCHTUNE: dict[str, Any] = {"rank": 8, "micro_batch_tokens": 4096, "state_bytes": 8, "stack": Stack.fused}
SHARDED: dict[str, Any] = {"num_devices": 8, "sharding": Sharding.fsdp}


@pytest.mark.parametrize(
    ("training", "published"),
    [
        (work(LLAMA_3_8B, **TORCHTUNE), 7.4),
        (work(LLAMA_3_8B, NONE, **TORCHTUNE), 16.2),
        (work(LLAMA_3_8B, NONE, **TORCHTUNE, recomputed_layers=0), 30.3),
        (work(LLAMA_3_70B, NONE, **TORCHTUNE, **SHARDED), 27.6),
    ],
    ids=["8B QLoRA", "8B LoRA", "8B LoRA without recomputation", "70B LoRA on 8 GPUs"],
)
def test_torchtunes_table(training: Workload, published: float) -> None:
    """README of pytorch/torchtune: 2 x 2,048 packed tokens, compiled, GiB that torch has allocated."""
    parts = training_parts(training)
    assert (parts.total - parts.context) / GIB == pytest.approx(published, rel=0.10)


@pytest.mark.parametrize(
    ("card_gib", "tokens", "tolerance"), [(8, 2972, 0.15), (12, 21_848, 0.10), (16, 40_724, 0.10), (24, 78_475, 0.10)]
)
def test_unsloths_longest_contexts(card_gib: int, tokens: int, tolerance: float) -> None:
    """Llama 3.1 8B, QLoRA rank 32, 8-bit AdamW, inputs offloaded: the longest context fills the card, and no less."""
    options: dict[str, Any] = {"rank": 32, "state_bytes": 10.06, "offloads": True, "stack": Stack.fused}
    filled = training_parts(work(LLAMA_3_8B, micro_batch_tokens=tokens, **options)).total
    assert filled == pytest.approx(card_gib * GIB, rel=tolerance)
    longest = max(
        length
        for length in range(256, 131_072, 64)
        if training_parts(work(LLAMA_3_8B, micro_batch_tokens=length, **options)).total <= card_gib * GIB
    )
    assert longest == pytest.approx(tokens, rel=tolerance)


@pytest.mark.parametrize(
    ("tokens", "published"), [(1024, 6), (2048, 7), (4096, 9), (8192, 12), (16_384, 19), (32_768, 32)]
)
def test_llama_factorys_table(tokens: int, published: float) -> None:
    """Wiki of LLaMA-Factory: Llama 2 7B, QLoRA rank 8, FlashAttention 2, transformers and PEFT; whole GB."""
    parts = training_parts(work(LLAMA_2_7B, rank=8, micro_batch_tokens=tokens, stack=Stack.naive))
    assert parts.total / GB == pytest.approx(published, rel=0.10)
