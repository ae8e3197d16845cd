"""Packed rows give every document the logits and gradients that it gets alone, and documents never see each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from finetune.model.packed_attention import make_buckets, packed, supports_packing

LENGTHS = (9, 31, 4, 30, 17)


@pytest.fixture
def model(tiny_model_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


def documents(vocabulary: int = 200) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(4, vocabulary, (1, length), generator=generator) for length in LENGTHS]


def packed_logits(model: Any, parts: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    lengths = [part.shape[1] for part in parts]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    with packed(model):
        row = model(
            torch.cat(parts, 1), position_ids=positions, document_buckets=make_buckets(lengths), use_cache=False
        )
    return row.logits[0].split(lengths)


def test_every_token_is_in_exactly_one_bucket_slot() -> None:
    buckets = make_buckets(LENGTHS)
    places = torch.cat([bucket.row_positions for bucket in buckets]).sort().values
    assert places.tolist() == list(range(sum(LENGTHS)))
    assert len(buckets) < len(LENGTHS)


def test_packed_logits_equal_those_of_each_document_alone(model: Any) -> None:
    parts = documents()
    with torch.no_grad():
        for part, together in zip(parts, packed_logits(model, parts), strict=True):
            torch.testing.assert_close(together, model(part, use_cache=False).logits[0], rtol=1e-4, atol=1e-5)


def test_another_documents_tokens_change_nothing_bit_for_bit(model: Any) -> None:
    parts = documents()
    changed = [parts[0] * 0 + 7, *parts[1:]]
    with torch.no_grad():
        before, after = packed_logits(model, parts), packed_logits(model, changed)
    assert not torch.equal(before[0], after[0])
    assert all(torch.equal(one, other) for one, other in zip(before[1:], after[1:], strict=True))


def test_packed_gradients_equal_the_sum_of_the_documents_own(model: Any) -> None:
    parts = documents()
    weight = model.model.layers[0].self_attn.q_proj.weight
    torch.cat([model(part, use_cache=False).logits[0] for part in parts]).square().mean().backward()
    alone = weight.grad.clone()
    weight.grad = None
    torch.cat(packed_logits(model, parts)).square().mean().backward()
    torch.testing.assert_close(weight.grad, alone, rtol=1e-3, atol=1e-7)


def test_the_model_is_left_as_it_was(model: Any) -> None:
    before = model.config._attn_implementation
    assert supports_packing(model)
    assert model.config._attn_implementation == before


def small(config: type, model: type, **extra: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    return model(config(**sizes, **heads, **extra)).eval()


def test_sliding_windows_are_kept() -> None:
    mistral = small(MistralConfig, MistralForCausalLM, sliding_window=6)
    assert supports_packing(mistral)
    parts = documents()
    with torch.no_grad():
        for part, together in zip(parts, packed_logits(mistral, parts), strict=True):
            torch.testing.assert_close(together, mistral(part, use_cache=False).logits[0], rtol=1e-4, atol=1e-5)


def test_an_architecture_whose_attention_differs_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    llama = small(LlamaConfig, LlamaForCausalLM)
    assert supports_packing(llama)
    forward = llama.forward

    def deaf(*arguments: Any, document_buckets: Any = None, **named: Any) -> Any:
        return forward(*arguments, **named)

    monkeypatch.setattr(llama, "forward", deaf)
    assert not supports_packing(llama)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "gemma3_text", "phi3", "smollm3", "falcon", "gpt2"])
def test_common_architectures_pack_or_are_recognised(family: str, small_model: Callable[[str], Any]) -> None:
    model = small_model(family)
    supported = supports_packing(model)
    assert supported or family in {"falcon", "gpt2"}


@pytest.fixture
def small_model() -> Callable[[str], Any]:
    def make(family: str) -> Any:
        from transformers import AutoConfig

        sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        extra = {} if family in {"falcon", "gpt2"} else {"intermediate_size": 64, "num_key_value_heads": 2}
        heads = {"head_dim": 8} if family in {"qwen3", "gemma3_text", "smollm3"} else {}
        torch.manual_seed(0)
        tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(family, **sizes, **extra, **heads, **tokens)
        ).eval()

    return make
