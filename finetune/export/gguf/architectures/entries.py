"""One entry per architecture: which checkpoint tensor becomes which GGUF tensor, and what its config.json may say.

To add one: write an entry, and give it a row in the tests, which compare it with llama.cpp's own converter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

_LLAMA_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_MLP = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_TWO_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_FOUR_NORMS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_LLAMA_LAYER = _ATTENTION | _MLP | _TWO_NORMS
_QKV = ("attn_q", "attn_k", "attn_v")

SILU = ("silu", "swish")
GELU_TANH = ("gelu_pytorch_tanh",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """Where a mixture of experts keeps them; the GGUF file stacks those of a layer."""

    prefix: str
    """Within a layer, before the expert's number."""
    gate: str
    up: str
    down: str
    router: str
    """Module that chooses the experts."""
    count_keys: tuple[str, ...]
    """Names in config.json of the number of experts."""
    width_key: str
    """Name in config.json of an expert's hidden width."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """What one GGUF architecture takes from a checkpoint. Modules are written without their .weight and .bias."""

    name: str
    """GGUF's name, the prefix of its metadata keys."""
    classes: tuple[str, ...]
    """`architectures` in config.json."""
    model_types: tuple[str, ...]
    """`model_type` in config.json, decisive where `architectures` is absent."""
    top: Mapping[str, str] = field(default_factory=lambda: _LLAMA_TOP)
    """Modules outside the layers."""
    prefix: str = "model.layers."
    """Before the number of a layer."""
    layer: Mapping[str, str] = field(default_factory=lambda: _LLAMA_LAYER)
    """Modules of one layer."""
    renames: tuple[tuple[str, str], ...] = ()
    """Parts of checkpoint names and what they are read as."""
    dropped: tuple[str, ...] = ()
    """Parts of names of tensors that the file has no place for: vision towers."""
    biases: tuple[str, ...] = ()
    """GGUF modules that have a bias."""
    possible_biases: tuple[str, ...] = ()
    """GGUF modules that may have one."""
    experts: Experts | None = None
    interleaved: bool = False
    """Whether llama.cpp rotates neighbouring pairs, so that the rows of q and k are reordered."""
    norm_plus: float = 0.0
    """Added to the weights of norms."""
    ropes: tuple[str, ...] = ("default", "linear", "yarn")
    """Kinds of rope that llama.cpp computes as transformers does."""
    activation_key: str = "hidden_act"
    activations: tuple[str, ...] = SILU
    """Values of that key that llama.cpp computes; the first where it is absent."""
    derives_head_dim: bool = False
    """Whether the file states the head's width even where config.json leaves it out."""
    square_heads: bool = False
    """Whether llama.cpp needs heads x width = hidden size."""
    states_vocabulary: bool = False
    """Whether the file states the vocabulary's size and the rope's dimensions, as Llama's kin do."""
    has_output: bool = True
    """False: the output head is always the embedding (Gemma 2)."""
    needs_output: bool = False
    """True: a tied output head is written a second time (OLMo 2)."""
    whole_norms: bool = False
    """Whether q and k norms span all heads at once."""
    period: int = 0
    """Each layer of this number attends to everything, the others to a sliding window; 0: llama.cpp has no windows."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """What the model class assumes where config.json is silent."""


ARCHITECTURES = (
    Architecture(
        name="llama",
        classes=("LlamaForCausalLM", "LLaMAForCausalLM"),
        model_types=("llama",),
        possible_biases=(*_QKV, "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
        interleaved=True,
        ropes=("default", "linear", "llama3", "yarn"),
        derives_head_dim=True,
        states_vocabulary=True,
        defaults={"rms_norm_eps": 1e-6, "max_position_embeddings": 2048},
    ),
    Architecture(
        name="llama",
        classes=("MistralForCausalLM",),
        model_types=("mistral",),
        interleaved=True,
        derives_head_dim=True,
        states_vocabulary=True,
        defaults={"num_key_value_heads": 8, "rms_norm_eps": 1e-6},
    ),
    Architecture(
        name="llama",
        classes=("MixtralForCausalLM",),
        model_types=("mixtral",),
        layer=_ATTENTION | _TWO_NORMS,
        renames=(("layers.*.mlp.", "layers.*.block_sparse_moe."),),
        experts=Experts(
            prefix="block_sparse_moe.experts.",
            gate="w1",
            up="w3",
            down="w2",
            router="block_sparse_moe.gate",
            count_keys=("num_local_experts", "num_experts"),
            width_key="intermediate_size",
        ),
        interleaved=True,
        states_vocabulary=True,
        defaults={"num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "num_experts_per_tok": 2},
    ),
    Architecture(
        name="qwen2",
        classes=("Qwen2ForCausalLM",),
        model_types=("qwen2",),
        biases=_QKV,
        square_heads=True,
        defaults={"rms_norm_eps": 1e-6},
    ),
    Architecture(
        name="qwen3",
        classes=("Qwen3ForCausalLM",),
        model_types=("qwen3",),
        layer=_LLAMA_LAYER | _HEAD_NORMS,
        derives_head_dim=True,
        defaults={"rms_norm_eps": 1e-6, "head_dim": 128},
    ),
    Architecture(
        name="qwen3moe",
        classes=("Qwen3MoeForCausalLM",),
        model_types=("qwen3_moe",),
        layer=_ATTENTION | _HEAD_NORMS | _TWO_NORMS,
        experts=Experts(
            prefix="mlp.experts.",
            gate="gate_proj",
            up="up_proj",
            down="down_proj",
            router="mlp.gate",
            count_keys=("num_experts", "num_local_experts"),
            width_key="moe_intermediate_size",
        ),
        defaults={"rms_norm_eps": 1e-6, "num_experts_per_tok": 8, "norm_topk_prob": False},
    ),
    Architecture(
        name="gemma2",
        classes=("Gemma2ForCausalLM",),
        model_types=("gemma2",),
        layer=_ATTENTION | _MLP | _FOUR_NORMS,
        norm_plus=1.0,
        ropes=("default",),
        activation_key="hidden_activation",
        activations=GELU_TANH,
        derives_head_dim=True,
        has_output=False,
        period=2,
        defaults={
            "num_key_value_heads": 4,
            "head_dim": 256,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 8192,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "tie_word_embeddings": True,
        },
    ),
    Architecture(
        name="gemma3",
        classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        model_types=("gemma3_text", "gemma3"),
        layer=_ATTENTION | _HEAD_NORMS | _MLP | _FOUR_NORMS,
        renames=(("language_model.", ""),),
        dropped=("vision_tower.", "multi_modal_projector."),
        norm_plus=1.0,
        ropes=("default", "linear"),
        activation_key="hidden_activation",
        activations=GELU_TANH,
        derives_head_dim=True,
        period=6,
        defaults={
            "vocab_size": 262208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 131072,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "tie_word_embeddings": True,
        },
    ),
    Architecture(
        name="phi3",
        classes=("Phi3ForCausalLM",),
        model_types=("phi3",),
        layer={
            "self_attn.qkv_proj": "attn_qkv",
            "self_attn.o_proj": "attn_output",
            "mlp.gate_up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
        }
        | _TWO_NORMS,
        ropes=("default", "longrope"),
        square_heads=True,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "original_max_position_embeddings": 4096},
    ),
    Architecture(
        name="falcon",
        classes=("FalconForCausalLM", "RWForCausalLM"),
        model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
        top={"transformer.word_embeddings": "token_embd", "transformer.ln_f": "output_norm", "lm_head": "output"},
        prefix="transformer.h.",
        layer={
            "self_attention.query_key_value": "attn_qkv",
            "self_attention.dense": "attn_output",
            "mlp.dense_h_to_4h": "ffn_up",
            "mlp.dense_4h_to_h": "ffn_down",
        },
        biases=("attn_norm", "attn_norm_2", "output_norm"),
        ropes=("default",),
        activation_key="activation",
        activations=("gelu",),
        square_heads=True,
        defaults={
            "max_position_embeddings": 2048,
            "layer_norm_epsilon": 1e-5,
            "parallel_attn": True,
            "multi_query": True,
            "tie_word_embeddings": True,
        },
    ),
    Architecture(
        name="smollm3",
        classes=("SmolLM3ForCausalLM",),
        model_types=("smollm3",),
        interleaved=True,
        states_vocabulary=True,
        defaults={
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "rope_theta": 2e6,
            "no_rope_layer_interval": 4,
            "tie_word_embeddings": True,
        },
    ),
    Architecture(
        name="granite",
        classes=("GraniteForCausalLM",),
        model_types=("granite",),
        possible_biases=(*_QKV, "attn_output", "ffn_gate", "ffn_up", "ffn_down"),
        interleaved=True,
        square_heads=True,
        states_vocabulary=True,
        defaults={
            "rms_norm_eps": 1e-6,
            "attention_multiplier": 1.0,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
        },
    ),
    Architecture(
        name="olmo2",
        classes=("Olmo2ForCausalLM",),
        model_types=("olmo2",),
        layer=_ATTENTION
        | _HEAD_NORMS
        | _MLP
        | {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"},
        square_heads=True,
        needs_output=True,
        whole_norms=True,
        defaults={"rms_norm_eps": 1e-5, "max_position_embeddings": 2048},
    ),
)
"""All that GGUF files are written for; Falcon 3 is a Llama."""


def falcon_norms(new_decoder: bool, num_norms: int | None) -> dict[str, str]:
    """Name Falcon's norms: one for attention and MLP (7B, 11B), or one each (40B, 180B)."""
    if new_decoder and num_norms != 1:
        return {"ln_mlp": "attn_norm", "ln_attn": "attn_norm_2"}
    return {"input_layernorm": "attn_norm"}
