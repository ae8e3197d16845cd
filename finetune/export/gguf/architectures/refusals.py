"""What a config.json may say that llama.cpp computes otherwise: refused, or told where only long texts differ."""

from finetune.export.gguf.architectures.entries import Architecture
from finetune.export.gguf.architectures.rope import original_context, rope_problems
from finetune.export.gguf.architectures.settings import Settings


def problems_of(entry: Architecture, settings: Settings) -> list[str]:
    """List what cannot be written exactly, each as a few words that name the key and its value."""
    problems = rope_problems(entry, settings) + _common_problems(entry, settings)
    if entry.period:
        problems += _gemma_problems(entry, settings)
    own = {
        "falcon": _falcon_problems,
        "qwen3moe": _qwen3moe_problems,
        "smollm3": _smollm3_problems,
    }
    return problems + own[entry.name](settings) if entry.name in own else problems


def differences_of(entry: Architecture, settings: Settings) -> list[str]:
    """List what llama.cpp does otherwise in texts of some lengths only."""
    found = []
    window = _unapplied_window(entry, settings)
    if window:
        found.append(f"llama.cpp does not apply the sliding window of {window} tokens: longer texts come out otherwise")
    original = original_context(settings)
    if settings.rope.kind == "longrope" and settings.context > original:
        found.append(
            f"llama.cpp chooses LongRoPE's factors by the context it is started with, not by the text's length: "
            f"short texts are exact up to a context of {original} tokens (-c {original})"
        )
    return found


def _unapplied_window(entry: Architecture, settings: Settings) -> int:
    window, types = settings.raw.get("sliding_window"), settings.sequence("layer_types")
    switched_off = settings.raw.get("use_sliding_window") is False
    unused = types is not None and "sliding_attention" not in types
    if entry.period or switched_off or unused or not isinstance(window, int) or window >= settings.context:
        return 0
    return window


def _common_problems(entry: Architecture, settings: Settings) -> list[str]:
    raw, problems = settings.raw, []
    activation = raw.get(entry.activation_key) or entry.activations[0]
    if activation not in entry.activations:
        problems.append(f"activation {activation!r}")
    if raw.get("is_causal") is False or raw.get("use_bidirectional_attention"):
        problems.append("attention to later tokens")
    if settings.flag("attention_bias") and not {"attn_q", "attn_output"} <= {*entry.biases, *entry.possible_biases}:
        problems.append("attention_bias true")
    if settings.flag("mlp_bias") and "ffn_up" not in entry.possible_biases:
        problems.append("mlp_bias true")
    if entry.square_heads and settings.heads * settings.head_dim != settings.hidden:
        problems.append(f"{settings.heads} heads of width {settings.head_dim} for a hidden size of {settings.hidden}")
    if settings.heads % settings.kv_heads:
        problems.append(f"{settings.heads} heads over {settings.kv_heads} key heads")
    types = settings.sequence("layer_types") or []
    if types and len(types) != settings.layers:
        problems.append(f"layer_types of {len(types)} entries for {settings.layers} layers")
    problems += [f"layers of type {kind!r}" for kind in sorted(set(types) - {"full_attention", "sliding_attention"})]
    return problems


def _falcon_problems(settings: Settings) -> list[str]:
    problems = [f"{key} true" for key in ("alibi", "bias") if settings.flag(key)]
    if not settings.flag("new_decoder_architecture") and not settings.flag("parallel_attn"):
        problems.append("parallel_attn false")
    if not settings.flag("new_decoder_architecture") and not settings.flag("multi_query"):
        problems.append("multi_query false")
    return problems


def _gemma_problems(entry: Architecture, settings: Settings) -> list[str]:
    """llama.cpp derives the scale of attention from the sizes: by head, or by hidden size in the 27B models."""
    problems = []
    largest = settings.layers == (46 if entry.name == "gemma2" else 62)
    scale = settings.hidden // settings.heads if largest else settings.head_dim
    given = settings.number("query_pre_attn_scalar")
    if given != scale:
        problems.append(f"query_pre_attn_scalar {given:g} (llama.cpp uses {scale})")
    softcapping = settings.raw.get("attn_logit_softcapping")
    if bool(softcapping) != (entry.name == "gemma2"):
        problems.append(f"attn_logit_softcapping {softcapping}")
    if not entry.has_output and not settings.flag("tie_word_embeddings"):
        problems.append("an output head of its own (tie_word_embeddings false)")
    return problems


def _qwen3moe_problems(settings: Settings) -> list[str]:
    problems = []
    if not settings.flag("norm_topk_prob"):
        problems.append("norm_topk_prob false")
    if settings.sequence("mlp_only_layers") or settings.integer("decoder_sparse_step", default=1) != 1:
        problems.append("layers without experts (mlp_only_layers, decoder_sparse_step)")
    return problems


def _smollm3_problems(settings: Settings) -> list[str]:
    interval = settings.integer("no_rope_layer_interval")
    layers = settings.sequence("no_rope_layers") or settings.periodic_layers(interval)
    if [bool(layer) for layer in layers] != settings.periodic_layers(4):
        return ["no_rope_layers other than each fourth"]
    return []
