"""The memory model against published measurements, against what autograd really keeps, and against common sense."""

from dataclasses import replace
from typing import Any

import pytest

from finetune.config import AdapterConfig, AdapterMethod, QuantizationConfig, QuantizationMethod, ShapeConfig, Sharding
from finetune.model.memory import (
    CPU_PROCESS,
    Stack,
    Workload,
    backward_bytes,
    evaluation_bytes,
    export_host_bytes,
    layer_bytes,
    training_parts,
)
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


@pytest.mark.parametrize(
    ("shape", "method", "tokens", "published", "error"),
    [
        (LLAMA_3_8B, NF4, 1024, 17.41, 0.002),
        (LLAMA_2_7B, NF4, 1024, 13.68, -0.029),
        (LLAMA_3_8B, NONE, 512, 19.73, 0.202),
        (LLAMA_2_7B, NONE, 1024, 19.77, 0.199),
    ],
    ids=["3.1 8B QLoRA", "2 7B QLoRA", "3.1 8B LoRA", "2 7B LoRA"],
)
def test_litgpts_rows_have_the_error_that_the_docs_state(
    shape: ShapeConfig, method: QuantizationMethod, tokens: int, published: float, error: float
) -> None:
    """config_hub of LitGPT: rank 32, no recomputation; its LoRA rows keep less than transformers and PEFT do."""
    parts = training_parts(
        work(shape, method, rank=32, micro_batch_tokens=tokens, recomputed_layers=0, stack=Stack.naive)
    )
    assert parts.total / GB / published - 1 == pytest.approx(error, abs=0.002)


def saved_bytes_per_layer(number: str, adapter: AdapterConfig) -> float:
    """Count what autograd keeps for one more layer, per token: whole storages, frozen weights and casts left out."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune.model.adapter import add_adapter
    from finetune.model.packed_attention import make_buckets, packed

    def saved(num_layers: int, tokens: int) -> int:
        config = LlamaConfig(
            vocab_size=64,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
        dtype = getattr(torch, number)
        model = LlamaForCausalLM(config).to(dtype).requires_grad_(False)
        model = add_adapter(model, adapter, seed=0).train()
        known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
        kept: dict[int, Any] = {}

        def keep(tensor: Any) -> Any:
            place = tensor.untyped_storage().data_ptr()
            if place not in known:
                kept[place] = tensor
            return tensor

        casts = torch.autocast("cpu", dtype=torch.bfloat16, enabled=number == "bfloat16")
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        inner = model.get_base_model().model
        with packed(model.get_base_model()), hooks, casts:
            inner(
                torch.zeros(1, tokens, dtype=torch.long),
                position_ids=torch.arange(tokens)[None],
                document_buckets=make_buckets([tokens]),
                use_cache=False,
            )
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    more, less = (saved(2, tokens) - saved(1, tokens) for tokens in (96, 32))
    return (more - less) / 64


SMALL = llama(1, 64, 160, 4, 2, 64)


@pytest.mark.parametrize("number", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", [AdapterMethod.lora, AdapterMethod.dora])
def test_activations_are_what_autograd_keeps(number: str, method: AdapterMethod) -> None:
    adapter = AdapterConfig(rank=8, method=method)
    size = 4 if number == "float32" else 2
    expected = layer_bytes(
        replace(work(SMALL, NONE, is_cuda=False, number_bytes=size, recomputed_layers=0), adapter=adapter)
    )
    assert saved_bytes_per_layer(number, adapter) == pytest.approx(expected, rel=0.001)


def test_adapter_sizes_follow_targets_rank_and_method() -> None:
    """Llama 3.1 8B, rank 16, all linear layers: 41,943,040 (PEFT's own count)."""
    assert num_adapter_parameters(LLAMA_3_8B, AdapterConfig(rank=16)) == 41_943_040
    attention = AdapterConfig(rank=8, target_modules=["q_proj", "model.layers.0.self_attn.v_proj"])
    assert num_adapter_parameters(LLAMA_3_8B, attention) == 32 * 8 * (8192 + 5120)
    dora = AdapterConfig(rank=16, method=AdapterMethod.dora)
    assert num_adapter_parameters(LLAMA_3_8B, dora) == 41_943_040 + 32 * (3 * 4096 + 2 * 1024 + 2 * 14336)
    whole = AdapterConfig(rank=16, modules_to_save=["embed_tokens"])
    assert num_adapter_parameters(LLAMA_3_8B, whole) == 41_943_040 + 128_256 * 4096
    fused = AdapterConfig(rank=8, target_modules=["gate_up_proj"])
    assert num_adapter_parameters(LLAMA_3_8B, fused) == 32 * 8 * 2 * (4096 + 14336)


def test_weights_by_quantisation() -> None:
    sizes = sizes_of(LLAMA_3_8B)
    assert (sizes.linear, sizes.embedding) == (6_979_321_856, 525_336_576)
    embeddings = 4 * 525_336_576
    for method, double, per_weight in ((NF4, True, 0.51587), (NF4, False, 0.5625), (NONE, True, 2.0)):
        quantization = QuantizationConfig(method=method, double_quantization=double)
        parts = training_parts(work(LLAMA_3_8B, quantization=quantization))
        assert parts.weights == pytest.approx(per_weight * sizes.linear + embeddings, rel=1e-5)


def test_a_mixtures_experts_stay_in_16_bits() -> None:
    sizes = sizes_of(MIXTRAL)
    assert sizes.total == pytest.approx(46.7e9, rel=0.001)
    assert sizes.active == pytest.approx(12.6e9, rel=0.01)
    assert training_parts(work(MIXTRAL)).weights > 2 * sizes.experts == pytest.approx(90.2e9, rel=0.01)


def test_what_lowers_memory_lowers_it() -> None:
    plain = training_parts(work(LLAMA_3_8B, recomputed_layers=0)).total
    half = training_parts(work(LLAMA_3_8B, recomputed_layers=16)).total
    full = training_parts(work(LLAMA_3_8B)).total
    assert plain > half > full
    assert full > training_parts(work(LLAMA_3_8B, offloads=True)).total
    assert full > training_parts(work(LLAMA_3_8B, supervised_share=0.1)).total
    assert full > training_parts(work(LLAMA_3_8B, rank=4)).total
    alone, sharded = (training_parts(work(LLAMA_3_70B, NONE, **more)).total for more in ({}, SHARDED))
    assert sharded < alone / 3
    copies = training_parts(work(LLAMA_3_8B, num_devices=2))
    assert copies.total - full == copies.gathered == 4 * 41_943_040


def test_on_a_cpu_the_heap_keeps_layers_but_no_mapped_blocks() -> None:
    """Feed-forward blocks of 32 MiB and more are mapped one by one: here from 8,192 tokens on."""
    shape = llama(8, 384, 1024, 6, 2, 8192, tied_embeddings=True)
    some = work(shape, NONE, number_bytes=4, is_cuda=False)
    layer = layer_bytes(some) + backward_bytes(some)

    def kept(tokens: int) -> float:
        return (training_parts(replace(some, micro_batch_tokens=tokens)).context - CPU_PROCESS) / tokens

    assert kept(1000) == kept(8191) == pytest.approx(3 * layer)  # two layers' holes, and one beside the logits
    assert kept(8192) == pytest.approx(3 * layer - 2 * 6 * 4 * 1024)
    assert kept(32_768) == 0
    assert training_parts(replace(some, is_cuda=True)).context == training_parts(work(LLAMA_3_8B)).context


def test_evaluation_and_export_count() -> None:
    few, many = (evaluation_bytes(work(LLAMA_3_8B), tokens) for tokens in (1024, 16_384))
    assert 8e9 < few < many
    assert export_host_bytes(LLAMA_3_8B) > 16e9
