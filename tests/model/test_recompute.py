"""Recomputation of the first layers: fewer activations are kept, and no number of a step changes."""

from typing import Any

import pytest
import torch

from finetune.config import AdapterConfig
from finetune.model.adapter import add_adapter
from finetune.model.recompute import recompute_first

NUM_LAYERS = 4


@pytest.fixture(scope="module")
def model() -> Any:
    """A random Llama of four layers with an adapter whose dropout draws random numbers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": NUM_LAYERS,
    }
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)).requires_grad_(False)
    tuned = add_adapter(base, AdapterConfig(rank=4, dropout=0.2), seed=0).train()
    for weight in tuned.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    return tuned


def step(model: Any, num_layers: int, *, bfloat16: bool = False) -> tuple[list[torch.Tensor], int, int]:
    """Return loss and gradients, the bytes that autograd kept, and how often a feed-forward began."""
    recompute_first(model.get_base_model(), num_layers)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    ids_BT = torch.randint(0, 64, (2, 48))
    kept: dict[int, torch.Tensor] = {}
    calls: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = [
        layer.mlp.register_forward_pre_hook(lambda *_, n=number: calls.append(n))
        for number, layer in enumerate(model.get_base_model().model.layers)
    ]
    casts = torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), casts:
        loss = model(ids_BT, labels=ids_BT, use_cache=False).loss
    num_bytes = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    loss.backward()
    for hook in hooks:
        hook.remove()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.requires_grad]
    return [loss.detach(), *gradients], num_bytes, len(calls)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_loss_and_gradients_are_the_same_bit_for_bit(bfloat16: bool, model: Any) -> None:
    plain, _, _ = step(model, 0, bfloat16=bfloat16)
    assert any(gradient.abs().sum() > 0 for gradient in plain[1:])
    for num_layers in (1, NUM_LAYERS):
        again, _, _ = step(model, num_layers, bfloat16=bfloat16)
        assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_just_the_first_layers_run_twice_and_keep_less(model: Any) -> None:
    found = [step(model, num_layers) for num_layers in range(NUM_LAYERS + 1)]
    assert [calls for _, _, calls in found] == [NUM_LAYERS + number for number in range(NUM_LAYERS + 1)]
    sizes = [num_bytes for _, num_bytes, _ in found]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 2
    layers = model.get_base_model().model.layers
    recompute_first(model.get_base_model(), 2)
    assert [layer.gradient_checkpointing for layer in layers] == [True, True, False, False]
    recompute_first(model.get_base_model(), 0)
    assert not any(layer.gradient_checkpointing for layer in layers)
