"""One tiny random model per architecture and variant, for tests that compare the export with another program."""

from pathlib import Path
from typing import Any

SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 512}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 256,
    "short_factor": [1.0, 1.25, 1.5, 1.75, 2.0, 2.5],
    "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_FALCON = {
    **{key: SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
    **{key: SIZES[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
    "bias": False,
}
_QWEN3_MOE = SIZES | _EXPERTS | {"moe_intermediate_size": 32, "head_dim": 32, "norm_topk_prob": True}
_GEMMA3 = SIZES | {"num_hidden_layers": 7, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64}
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SIZES | {"num_key_value_heads": 4}),
    "llama_3": ("Llama", SIZES | {"rope_parameters": _LLAMA3, "hidden_size": 512, "tie_word_embeddings": True}),
    "llama_linear": ("Llama", SIZES | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "llama_yarn": ("Llama", SIZES | {"rope_parameters": _YARN}),
    "llama_biases": ("Llama", SIZES | {"attention_bias": True, "mlp_bias": True}),
    "falcon_3": ("Llama", SIZES | {"head_dim": 32, "num_key_value_heads": 1}),
    "mistral": ("Mistral", SIZES | {"head_dim": 32, "sliding_window": None}),
    "mixtral": ("Mixtral", SIZES | _EXPERTS),
    "qwen2": ("Qwen2", SIZES | {"tie_word_embeddings": True}),
    "qwen2_yarn": ("Qwen2", SIZES | {"rope_parameters": _YARN}),
    "qwen3": ("Qwen3", SIZES | {"head_dim": 32}),
    "qwen3moe": ("Qwen3Moe", _QWEN3_MOE),
    "gemma2": ("Gemma2", SIZES | {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64}),
    "gemma3": ("Gemma3Text", _GEMMA3),
    "gemma3_linear": (
        "Gemma3Text",
        _GEMMA3
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
    ),
    "gemma3_vision": ("Gemma3", {"text_config": _GEMMA3, "vision_config": _VISION}),
    "phi3": ("Phi3", SIZES | {"sliding_window": 256}),
    "phi4_mini": (
        "Phi3",
        SIZES | {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 256, "tie_word_embeddings": True},
    ),
    "falcon_7b": ("Falcon", _FALCON | {"num_kv_heads": 1, "multi_query": True}),
    "falcon_40b": ("Falcon", _FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon_11b": (
        "Falcon",
        _FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1},
    ),
    "smollm3": ("SmolLM3", SIZES | {"num_hidden_layers": 5}),
    "granite": (
        "Granite",
        SIZES
        | {
            "attention_multiplier": 0.0625,
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "tie_word_embeddings": True,
        },
    ),
    "olmo2": ("Olmo2", SIZES),
}
"""Name -> (transformers' name before `Config` and `ForCausalLM`, arguments of the configuration)."""


def save_random_model(name: str, folder: Path, **save_options: Any) -> None:
    """Write the model in 32 bits, every weight, bias and norm random; same name, same values. No tokenizer.

    The weights are large enough for attention to look at some tokens more than at others, so that a wrong rope shows.
    """
    import torch
    import transformers

    kind, arguments = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**arguments)
    classes = {"Gemma3Text": "Gemma3ForCausalLM", "Gemma3": "Gemma3ForConditionalGeneration"}
    torch.manual_seed(0)
    model = getattr(transformers, classes.get(kind, f"{kind}ForCausalLM"))(config)
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if "norm" in weight_name and weight_name.endswith(".weight") and not kind.startswith("Gemma"):
                weight.copy_(1 + 0.1 * torch.randn_like(weight))
            else:
                weight.normal_(std=0.3 if weight.ndim > 1 else 0.1)
    model.save_pretrained(folder, **save_options)
