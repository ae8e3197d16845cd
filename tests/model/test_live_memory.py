"""The memory model against every byte that torch's own allocator gives out in a training step on a CPU."""

from typing import Any

import pytest

from finetune.config import AdapterConfig, QuantizationConfig, QuantizationMethod, ShapeConfig
from finetune.model.memory import Workload, training_parts
from finetune.model.sizes import num_adapter_parameters

NUM_TOKENS = 256
WIDE = ShapeConfig(
    num_layers=4,
    hidden_size=256,
    intermediate_size=1024,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=512,
    tied_embeddings=True,
)
MANY_WORDS = ShapeConfig(
    num_layers=2,
    hidden_size=128,
    intermediate_size=256,
    num_heads=4,
    num_kv_heads=4,
    head_dim=32,
    vocab_size=8192,
    tied_embeddings=True,
)


def live_bytes_of_a_step(shape: ShapeConfig, number: str, *, recompute: bool) -> int:
    """Run two steps and return the peak of what the second one adds to weights, adapter and optimizer state."""
    import torch
    import torch.nn.functional as F
    from torch.profiler import ProfilerActivity, profile
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune.model.adapter import add_adapter
    from finetune.model.packed_attention import make_buckets, packed

    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        tie_word_embeddings=True,
    )
    base = LlamaForCausalLM(config).to(getattr(torch, number)).requires_grad_(False)
    model: Any = add_adapter(base, AdapterConfig(), seed=0).train()
    if recompute:
        model.enable_input_require_grads()
        base.gradient_checkpointing_enable({"use_reentrant": False})
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    optimizer = torch.optim.AdamW(weights)
    ids = torch.arange(NUM_TOKENS)[None]

    def step() -> None:
        """As the trainer does it: logits of supervised positions, their loss in float32."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=number == "bfloat16"):
            kept = torch.arange(NUM_TOKENS - 1)
            logits = model(
                ids,
                position_ids=ids,
                document_buckets=make_buckets([NUM_TOKENS]),
                logits_to_keep=kept,
                use_cache=False,
            ).logits
            loss = F.cross_entropy(logits[torch.zeros_like(kept), kept].float(), ids[0, 1:], reduction="sum")
        del logits
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with packed(base):
        step()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            step()
    events: Any = watched.profiler.kineto_results.events()  # type: ignore[union-attr]
    live = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("shape", "number", "recompute"),
    [
        (WIDE, "float32", False),
        (WIDE, "float32", True),
        (WIDE, "bfloat16", True),
        (MANY_WORDS, "float32", False),
    ],
    ids=["kept", "recomputed", "16 bits", "many words"],
)
def test_a_step_takes_what_the_formula_says(shape: ShapeConfig, number: str, recompute: bool) -> None:
    work = Workload(
        shape=shape,
        adapter=AdapterConfig(),
        quantization=QuantizationConfig(method=QuantizationMethod.none),
        micro_batch_tokens=NUM_TOKENS,
        recomputed_layers=shape.num_layers if recompute else 0,
        number_bytes=4 if number == "float32" else 2,
        is_cuda=False,
    )
    parts = training_parts(work)
    casts = 0 if number == "float32" else 2 * num_adapter_parameters(shape, work.adapter)
    expected = parts.activations + parts.working + casts
    assert live_bytes_of_a_step(shape, number, recompute=recompute) == pytest.approx(expected, rel=0.15)
