"""A small config.json per architecture, in the spelling its publishers use, and the tensors that its checkpoint holds.

Shapes follow the model's definition, not the package's tables; tests that build no model use these.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]

_COMMON: Config = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def _config(model: str, model_type: str, **changes: Any) -> Config:
    return _COMMON | {"architectures": [model], "model_type": model_type, "hidden_act": "silu"} | changes


_LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.5, 2.0], "long_factor": [1.0, 4.0, 16.0]}
_GEMMA: Config = {"hidden_act": None, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 16}
_FALCON: Config = {
    **{key: _COMMON[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")},
    "architectures": ["FalconForCausalLM"],
    "model_type": "falcon",
    "alibi": False,
    "bias": False,
    "parallel_attn": True,
    "layer_norm_epsilon": 1e-5,
}

CONFIGS: dict[str, Config] = {
    "llama": _config("LlamaForCausalLM", "llama"),
    "llama_biases": _config("LlamaForCausalLM", "llama", attention_bias=True, mlp_bias=True),
    "mistral": _config("MistralForCausalLM", "mistral", head_dim=16, sliding_window=None),
    "mixtral": _config("MixtralForCausalLM", "mixtral", num_local_experts=3, num_experts_per_tok=2),
    "qwen2": _config("Qwen2ForCausalLM", "qwen2", tie_word_embeddings=True),
    "qwen3": _config("Qwen3ForCausalLM", "qwen3", head_dim=16),
    "qwen3moe": _config(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        head_dim=16,
        num_experts=3,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        norm_topk_prob=True,
    ),
    "gemma2": _config("Gemma2ForCausalLM", "gemma2", head_dim=16, tie_word_embeddings=True, **_GEMMA),
    "gemma3": _config("Gemma3ForCausalLM", "gemma3_text", head_dim=16, tie_word_embeddings=True, **_GEMMA),
    "phi3": _config("Phi3ForCausalLM", "phi3", sliding_window=2047),
    "phi4_mini": _config(
        "Phi3ForCausalLM",
        "phi3",
        partial_rotary_factor=0.75,
        original_max_position_embeddings=64,
        rope_scaling=_LONGROPE,
        tie_word_embeddings=True,
    ),
    "falcon_7b": _FALCON | {"multi_query": True, "new_decoder_architecture": False},
    "falcon_40b": _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "smollm3": _config("SmolLM3ForCausalLM", "smollm3", tie_word_embeddings=True),
    "granite": _config(
        "GraniteForCausalLM",
        "granite",
        attention_multiplier=0.0625,
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        logits_scaling=8.0,
        tie_word_embeddings=True,
    ),
    "olmo2": _config("Olmo2ForCausalLM", "olmo2"),
}


def checkpoint_shapes(config: Config) -> Shapes:
    """List the tensors of a checkpoint as transformers saves it, with their shapes."""
    if config["model_type"] == "falcon":
        return _falcon_shapes(config)
    hidden = config["hidden_size"]
    shapes: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for number in range(config["num_hidden_layers"]):
        layer = _attention(config) | _mlp(config)
        layer |= {f"{name}.weight": (hidden,) for name in _norms(config["model_type"])}
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def random_checkpoint(config: Config) -> dict[str, np.ndarray]:
    """Make random float32 values for `checkpoint_shapes`; the same on every call."""
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in checkpoint_shapes(config).items()}


def save_checkpoint(config: Config, folder: Path) -> None:
    """Write config.json and model.safetensors with random values."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(random_checkpoint(config), folder / "model.safetensors")


def _attention(config: Config) -> Shapes:
    hidden, heads, kind = config["hidden_size"], config["num_attention_heads"], config["model_type"]
    width = config.get("head_dim") or hidden // heads
    queries, keys = heads * width, config["num_key_value_heads"] * width
    output: Shapes = {"self_attn.o_proj.weight": (hidden, queries)}
    if kind == "phi3":
        return output | {"self_attn.qkv_proj.weight": (queries + 2 * keys, hidden)}
    rows = {"q": queries, "k": keys, "v": keys}
    shapes: Shapes = output | {f"self_attn.{part}_proj.weight": (size, hidden) for part, size in rows.items()}
    if kind == "qwen2" or config.get("attention_bias"):
        shapes |= {f"self_attn.{part}_proj.bias": (size,) for part, size in rows.items()}
    if config.get("attention_bias"):
        shapes["self_attn.o_proj.bias"] = (hidden,)
    if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
        shapes |= {"self_attn.q_norm.weight": (width,), "self_attn.k_norm.weight": (width,)}
    if kind == "olmo2":
        shapes |= {"self_attn.q_norm.weight": (queries,), "self_attn.k_norm.weight": (keys,)}
    return shapes


def _mlp(config: Config) -> Shapes:
    hidden, width, kind = config["hidden_size"], config["intermediate_size"], config["model_type"]
    if kind == "phi3":
        return {"mlp.gate_up_proj.weight": (2 * width, hidden), "mlp.down_proj.weight": (hidden, width)}
    if kind == "mixtral":
        shapes: Shapes = {"block_sparse_moe.gate.weight": (config["num_local_experts"], hidden)}
        for expert in range(config["num_local_experts"]):
            start = f"block_sparse_moe.experts.{expert}"
            shapes |= {f"{start}.w1.weight": (width, hidden), f"{start}.w2.weight": (hidden, width)}
            shapes[f"{start}.w3.weight"] = (width, hidden)
        return shapes
    if kind == "qwen3_moe":
        width = config["moe_intermediate_size"]
        shapes = {"mlp.gate.weight": (config["num_experts"], hidden)}
        for expert in range(config["num_experts"]):
            shapes |= _gated(f"mlp.experts.{expert}", hidden, width)
        return shapes
    shapes = _gated("mlp", hidden, width)
    if config.get("mlp_bias"):
        shapes |= {f"{name.removesuffix('weight')}bias": shape[:1] for name, shape in list(shapes.items())}
    return shapes


def _gated(start: str, hidden: int, width: int) -> Shapes:
    return {
        f"{start}.gate_proj.weight": (width, hidden),
        f"{start}.up_proj.weight": (width, hidden),
        f"{start}.down_proj.weight": (hidden, width),
    }


def _norms(model_type: str) -> list[str]:
    if model_type in ("gemma2", "gemma3_text"):
        feedforward = ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
        return ["input_layernorm", "post_attention_layernorm", *feedforward]
    if model_type == "olmo2":
        return ["post_attention_layernorm", "post_feedforward_layernorm"]
    return ["input_layernorm", "post_attention_layernorm"]


def _falcon_shapes(config: Config) -> Shapes:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    keys = config["num_kv_heads"] if config["new_decoder_architecture"] else 1
    shapes: Shapes = {"transformer.word_embeddings.weight": (config["vocab_size"], hidden)}
    norms = ["ln_attn", "ln_mlp"] if config["new_decoder_architecture"] else ["input_layernorm"]
    for number in range(config["num_hidden_layers"]):
        start = f"transformer.h.{number}"
        shapes[f"{start}.self_attention.query_key_value.weight"] = ((heads + 2 * keys) * hidden // heads, hidden)
        shapes[f"{start}.self_attention.dense.weight"] = (hidden, hidden)
        shapes[f"{start}.mlp.dense_h_to_4h.weight"] = (4 * hidden, hidden)
        shapes[f"{start}.mlp.dense_4h_to_h.weight"] = (hidden, 4 * hidden)
        shapes |= {f"{start}.{norm}.{part}": (hidden,) for norm in norms for part in ("weight", "bias")}
    return shapes | {f"transformer.ln_f.{part}": (hidden,) for part in ("weight", "bias")}
