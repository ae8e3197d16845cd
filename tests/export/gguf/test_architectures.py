"""Which models GGUF files are written for, and what of a checkpoint goes where in them."""

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import ConfigError, ExportError
from finetune.export.gguf import architectures
from finetune.export.gguf.tensors import GgufTensor

from .assemble import assemble
from .configs import CONFIGS, Config, checkpoint_shapes, random_checkpoint

ROOT = Path(__file__).resolve().parents[3]

_SQUARE = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate ffn_up ffn_down"
_FUSED = "attn_norm attn_qkv attn_output ffn_norm ffn_up ffn_down"
_EXPERTS = "attn_norm attn_q attn_k attn_v attn_output ffn_norm ffn_gate_inp ffn_gate_exps ffn_up_exps ffn_down_exps"
_GEMMA = f"{_SQUARE} post_attention_norm post_ffw_norm"
LAYER_TENSORS = {
    "llama": _SQUARE,
    "llama_biases": _SQUARE,
    "mistral": _SQUARE,
    "mixtral": _EXPERTS,
    "qwen2": _SQUARE,
    "qwen3": f"{_SQUARE} attn_q_norm attn_k_norm",
    "qwen3moe": f"{_EXPERTS} attn_q_norm attn_k_norm",
    "gemma2": _GEMMA,
    "gemma3": f"{_GEMMA} attn_q_norm attn_k_norm",
    "phi3": _FUSED,
    "phi4_mini": _FUSED,
    "falcon_7b": "attn_norm attn_qkv attn_output ffn_up ffn_down",
    "falcon_40b": "attn_norm attn_norm_2 attn_qkv attn_output ffn_up ffn_down",
    "smollm3": _SQUARE,
    "granite": _SQUARE,
    "olmo2": "attn_q attn_k attn_v attn_output attn_q_norm attn_k_norm ffn_gate ffn_up ffn_down"
    " post_attention_norm post_ffw_norm",
}
"""Weights of one layer that llama.cpp's model loader asks for."""

LLAMA_3 = CONFIGS["llama"] | {
    "hidden_size": 512,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


def plan_of(config: Config) -> dict[str, GgufTensor]:
    """Plan the file of a config's own checkpoint."""
    return {tensor.name: tensor for tensor in architectures.plan_tensors(config, checkpoint_shapes(config))}


@pytest.mark.parametrize("name", CONFIGS)
def test_each_layer_holds_what_llama_cpp_loads(name: str) -> None:
    config = CONFIGS[name]
    architectures.check_architecture(config, name)
    names = set(plan_of(config))
    for layer in range(config["num_hidden_layers"]):
        found = {tensor.split(".")[2] for tensor in names if tensor.startswith(f"blk.{layer}.")}
        assert found == set(LAYER_TENSORS[name].split())
    assert {"token_embd.weight", "output_norm.weight"} < names
    assert ("output.weight" in names) is not config.get("tie_word_embeddings", True)


@pytest.mark.parametrize("name", CONFIGS)
def test_each_value_of_the_checkpoint_is_written_once(name: str) -> None:
    checkpoint = random_checkpoint(CONFIGS[name])
    norm_plus = 1.0 if name.startswith("gemma") else 0.0
    before = Counter(value for values in checkpoint.values() for value in values.ravel().tolist())
    after: Counter[float] = Counter()
    for tensor in plan_of(CONFIGS[name]).values():
        if tensor.values is not None:
            continue
        assert tensor.plus == (norm_plus if tensor.name.endswith("_norm.weight") else 0.0), tensor.name
        values = assemble(tensor, checkpoint.__getitem__)
        assert values.size == tensor.num_values
        after.update((values - np.float32(tensor.plus)).ravel().tolist() if not tensor.plus else [])
        if tensor.plus:
            (source,) = tensor.rows
            np.testing.assert_array_equal(values, checkpoint[source.source] + np.float32(1.0))
            after.update(checkpoint[source.source].ravel().tolist())
    assert after == before


@pytest.mark.parametrize("name", CONFIGS)
def test_vectors_and_routers_stay_in_32_bits(name: str) -> None:
    for tensor in plan_of(CONFIGS[name]).values():
        assert tensor.always_f32 == (len(tensor.shape) == 1 or tensor.name.endswith("ffn_gate_inp.weight"))


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("llama", {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}),
        ("llama", {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}),
        ("llama", {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}),
        ("qwen3", {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}),
        ("gemma2", {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}),
        ("gemma3", {"ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}),
        ("falcon_40b", {"attn_norm": "ln_mlp", "attn_norm_2": "ln_attn"}),
        ("olmo2", {"post_attention_norm": "post_attention_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}),
    ],
)
def test_tensors_of_one_shape_are_not_mistaken_for_each_other(name: str, sources: dict[str, str]) -> None:
    plan = plan_of(CONFIGS[name])
    for target, module in sources.items():
        (rows,) = plan[f"blk.1.{target}.weight"].rows
        assert rows.source.partition(".1.")[2] == f"{module}.weight"


def test_llamas_heads_are_rotated_in_neighbouring_pairs() -> None:
    # heads of 8 rows: transformers rotates row i with row i + 4, llama.cpp row 2i with row 2i + 1
    config = CONFIGS["llama"]
    query = np.repeat(np.arange(32.0, dtype=np.float32)[:, None], 32, axis=1)
    written = assemble(plan_of(config)["blk.0.attn_q.weight"], lambda _: query)[:, 0]
    assert written[:16].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    bias = assemble(plan_of(CONFIGS["llama_biases"])["blk.1.attn_k.bias"], lambda _: query[:16, 0])
    assert bias[:8].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@pytest.mark.parametrize("name", ["qwen2", "qwen3", "qwen3moe", "gemma2", "gemma3", "phi3", "falcon_7b", "olmo2"])
def test_other_heads_keep_their_order(name: str) -> None:
    assert {tensor.interleave for tensor in plan_of(CONFIGS[name]).values()} == {0}


def test_falcons_groups_become_queries_then_keys_then_values() -> None:
    # 4 queries of width 8 over 2 keys: two groups of (query, query, key, value)
    fused = np.repeat(np.arange(64.0, dtype=np.float32)[:, None], 32, axis=1)
    written = assemble(plan_of(CONFIGS["falcon_40b"])["blk.0.attn_qkv.weight"], lambda _: fused)[::8, 0] / 8
    assert written.tolist() == [0, 1, 4, 5, 2, 6, 3, 7]
    single = plan_of(CONFIGS["falcon_7b"])["blk.0.attn_qkv.weight"]
    assert [(rows.start, rows.stop) for rows in single.rows] == [(0, 48)]


@pytest.mark.parametrize("name", ["mixtral", "qwen3moe"])
def test_experts_one_by_one_and_stacked_give_the_same_tensors(name: str) -> None:
    config, checkpoint = CONFIGS[name], random_checkpoint(CONFIGS[name])
    stacked = {key: value for key, value in checkpoint.items() if ".experts." not in key}
    parts = {"mixtral": ("w1", "w3", "w2"), "qwen3moe": ("gate_proj", "up_proj", "down_proj")}[name]
    router = {"mixtral": "block_sparse_moe", "qwen3moe": "mlp"}[name]
    for layer in range(2):
        start = f"model.layers.{layer}.{router}"
        gate, up, down = (
            np.stack([checkpoint[f"{start}.experts.{expert}.{part}.weight"] for expert in range(3)]) for part in parts
        )
        new = f"model.layers.{layer}.mlp"
        stacked[f"{new}.gate.weight"] = stacked.pop(f"{start}.gate.weight")
        stacked[f"{new}.experts.gate_up_proj"] = np.concatenate([gate, up], axis=1)
        stacked[f"{new}.experts.down_proj"] = down
        one_by_one = assemble(plan_of(config)[f"blk.{layer}.ffn_gate_exps.weight"], checkpoint.__getitem__)
        np.testing.assert_array_equal(one_by_one, gate)
    shapes = {key: value.shape for key, value in stacked.items()}
    ours = {tensor.name: tensor for tensor in architectures.plan_tensors(config, shapes)}
    assert set(ours) == set(plan_of(config))
    for tensor_name, tensor in plan_of(config).items():
        np.testing.assert_array_equal(
            assemble(ours[tensor_name], stacked.__getitem__), assemble(tensor, checkpoint.__getitem__)
        )


def test_llama_3_carries_its_frequency_factors() -> None:
    factors = plan_of(LLAMA_3)["rope_freqs.weight"].values
    assert factors is not None
    assert len(factors) == 64
    assert list(factors[:29]) == [1.0] * 29
    assert list(factors[35:]) == [8.0] * 29
    # the blend in between, from llama.cpp's convert_hf_to_gguf.py of llama_cpp_python 0.3.36
    assert np.float32(factors[34]) == np.float32(5.257327079772949)


def test_longrope_carries_both_lists_and_the_attention_factor() -> None:
    plan = plan_of(CONFIGS["phi4_mini"])
    assert plan["rope_factors_short.weight"].values == (1.0, 1.5, 2.0)
    assert plan["rope_factors_long.weight"].values == (1.0, 4.0, 16.0)
    keys = architectures.metadata(CONFIGS["phi4_mini"])
    assert keys["phi3.rope.scaling.attn_factor"] == math.sqrt(1 + math.log(4) / math.log(64))
    assert keys["phi3.rope.dimension_count"] == 6


def test_a_tied_olmo_2_repeats_its_embedding_because_llama_cpp_asks_for_it() -> None:
    plan = plan_of(CONFIGS["olmo2"] | {"tie_word_embeddings": True})
    assert plan["output.weight"].rows == plan["token_embd.weight"].rows


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_a_tied_pair_may_stand_under_the_heads_name(name: str) -> None:
    shapes = checkpoint_shapes(CONFIGS[name])
    shapes["lm_head.weight"] = shapes.pop("model.embed_tokens.weight")
    plan = {tensor.name: tensor for tensor in architectures.plan_tensors(CONFIGS[name], shapes)}
    assert set(plan) == set(plan_of(CONFIGS[name]))
    assert plan["token_embd.weight"].rows[0].source == "lm_head.weight"


def test_metadata_of_llama_3() -> None:
    assert architectures.metadata(LLAMA_3) == {
        "llama.block_count": 2,
        "llama.context_length": 256,
        "llama.embedding_length": 512,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.attention.key_length": 128,
        "llama.attention.value_length": 128,
        "llama.vocab_size": 48,
        "llama.rope.dimension_count": 128,
        "llama.rope.freq_base": 500000.0,
    }


def test_granites_multipliers_are_in_the_metadata() -> None:
    keys = architectures.metadata(CONFIGS["granite"])
    assert keys["granite.attention.scale"] == 0.0625
    assert keys["granite.embedding_scale"] == 12.0
    assert keys["granite.residual_scale"] == 0.22
    assert keys["granite.logit_scale"] == 8.0


def test_numbers_have_the_types_of_the_file() -> None:
    keys = architectures.metadata(LLAMA_3 | {"rope_theta": 500000, "num_hidden_layers": 2.0})
    assert type(keys["llama.rope.freq_base"]) is float
    assert type(keys["llama.block_count"]) is int
    sampling = architectures.metadata(LLAMA_3, {"top_k": 20, "temperature": 1, "do_sample": True})
    assert isinstance(sampling["general.sampling.top_k"], architectures.Signed)
    assert type(sampling["general.sampling.temp"]) is float
    assert len(sampling) == len(keys) + 2


def test_a_gemma_3_whose_config_leaves_most_to_the_model_class() -> None:
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": text,
        "vision_config": {"hidden_size": 1152},
    }
    architectures.check_architecture(config, "config.json")
    keys = architectures.metadata(config)
    assert {key.removeprefix("gemma3."): value for key, value in keys.items()} == {
        "block_count": 34,
        "context_length": 131072,
        "embedding_length": 2560,
        "feed_forward_length": 10240,
        "attention.head_count": 8,
        "attention.head_count_kv": 4,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "attention.sliding_window": 1024,
        "rope.freq_base": 1e6,
        "rope.freq_base_swa": 1e4,
        "rope.scaling.type": "linear",
        "rope.scaling.factor": 8.0,
    }


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_gemma_3s_vision_tower_is_left_out_and_named(prefix: str) -> None:
    config = CONFIGS["gemma3"] | {"architectures": ["Gemma3ForConditionalGeneration"]}
    text = {name.replace("model.", prefix, 1): shape for name, shape in checkpoint_shapes(config).items()}
    vision = {"vision_tower.encoder.weight": (4, 4), "multi_modal_projector.mm_soft_emb_norm.weight": (4,)}
    plan = architectures.plan_tensors(config, text | vision)
    assert {tensor.name for tensor in plan} == set(plan_of(CONFIGS["gemma3"]))
    assert {rows.source for tensor in plan for rows in tensor.rows} == set(text)
    assert architectures.left_out(config, text | vision) == list(vision)


def test_gemmas_pattern_of_windows_is_written_where_it_is_not_llama_cpps() -> None:
    key = "gemma3.attention.sliding_window_pattern"
    layers = ["full_attention", "sliding_attention"]
    assert key not in architectures.metadata(CONFIGS["gemma3"])
    assert architectures.metadata(CONFIGS["gemma3"] | {"layer_types": layers})[key] == [False, True]
    without_windows = architectures.metadata(CONFIGS["gemma3"] | {"layer_types": ["full_attention"] * 2})
    assert not any("sliding_window" in key for key in without_windows)


def test_falcon_7b_has_one_key_head_whatever_transformers_writes() -> None:
    keys = architectures.metadata(CONFIGS["falcon_7b"] | {"num_kv_heads": 4, "rope_theta": 500042.0})
    assert keys["falcon.attention.head_count_kv"] == 1
    assert keys["falcon.rope.freq_base"] == 500042.0
    assert "falcon.rope.freq_base" not in architectures.metadata(CONFIGS["falcon_7b"])


V5_SPELLING = {
    "llama": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "head_dim": 8},
    "gemma3": {
        "rope_parameters": {
            "full_attention": {"rope_theta": 10000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
        },
        "layer_types": ["sliding_attention", "sliding_attention"],
    },
    "phi4_mini": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 64,
            "short_factor": [1.0, 1.5, 2.0],
            "long_factor": [1.0, 4.0, 16.0],
        },
        "original_max_position_embeddings": 64,
    },
    "qwen3moe": {"num_local_experts": 3, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}},
}
V4_KEYS = {"rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings", "num_experts"}


@pytest.mark.parametrize("name", V5_SPELLING)
def test_transformers_5_spelling_gives_the_same_file(name: str) -> None:
    old = CONFIGS[name]
    new = {key: value for key, value in old.items() if key not in V4_KEYS} | V5_SPELLING[name]
    assert architectures.metadata(new) == architectures.metadata(old)
    shapes = checkpoint_shapes(old)
    assert architectures.plan_tensors(new, shapes) == architectures.plan_tensors(old, shapes)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("llama", {"architectures": ["GPTNeoXForCausalLM"]}, "does not know GPTNeoXForCausalLM"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ("llama", {"architectures": None, "model_type": "mamba"}, "does not know mamba"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}}, "'mrope_section'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("llama", {"hidden_size": None}, "hidden_size is missing"),
        ("llama", {"intermediate_size": None}, "intermediate_size is missing"),
        ("llama", {"num_hidden_layers": "two"}, "num_hidden_layers is 'two'"),
        ("llama", {"num_hidden_layers": float("nan")}, "num_hidden_layers is nan"),
        ("llama", {"num_key_value_heads": 3}, "4 heads over 3 key heads"),
        ("llama", {"is_causal": False}, "attention to later tokens"),
        ("qwen3", {"attention_bias": True}, "attention_bias true"),
        ("qwen2", {"head_dim": 16}, "4 heads of width 16 for a hidden size of 32"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types of 1 entries for 2 layers"),
        ("qwen2", {"layer_types": ["full_attention", "linear_attention"]}, "layers of type 'linear_attention'"),
        ("qwen2", {"rope_scaling": {"type": "yarn", "factor": 4.0, "attention_factor": 2.0}}, "attention_factor 2.0"),
        ("qwen3", {"rope_scaling": {"type": "yarn", "factor": 4.0, "beta_fast": 16}}, "yarn with beta_fast 16"),
        ("qwen2", {"rope_scaling": {"type": "llama3", "factor": 4.0}}, "rope type 'llama3'"),
        ("qwen3moe", {"norm_topk_prob": False}, "norm_topk_prob false"),
        ("qwen3moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("gemma2", {"query_pre_attn_scalar": 224}, "query_pre_attn_scalar 224 (llama.cpp uses 16)"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping None"),
        ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings false"),
        ("gemma3", {"use_bidirectional_attention": True}, "attention to later tokens"),
        ("phi4_mini", {"rope_scaling": {"type": "su", "short_factor": [1.0]}}, "long_factor that is no list of 3"),
        ("falcon_7b", {"alibi": True}, "alibi true"),
        ("falcon_7b", {"parallel_attn": False}, "parallel_attn false"),
        ("smollm3", {"no_rope_layers": [0, 1]}, "no_rope_layers"),
    ],
)
def test_a_model_that_cannot_be_written_exactly_is_refused(name: str, changes: Config, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        architectures.check_architecture(CONFIGS[name] | changes, "models/x/config.json")
    message = str(caught.value)
    assert words in message
    assert message.startswith("models/x/config.json: ")
    assert "\n" not in message
    assert not architectures.supported(CONFIGS[name] | changes)


def test_an_unknown_architecture_is_told_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"export\.formats=\[safetensors\].*convert_hf_to_gguf\.py"):
        architectures.check_architecture({"architectures": ["MambaForCausalLM"]}, "config.json")


def test_the_question_needs_the_standard_library_alone() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'gguf', 'transformers', 'xllamacpp')))\n"
        "from finetune.export.gguf.architectures import supported\n"
        "assert not supported({'architectures': ['MambaForCausalLM']})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_windows_that_llama_cpp_does_not_apply_are_told() -> None:
    assert "64 tokens" in architectures.differences(CONFIGS["mistral"] | {"sliding_window": 64})[0]
    assert architectures.differences(CONFIGS["mistral"] | {"sliding_window": 256}) == []
    assert architectures.differences(CONFIGS["qwen2"] | {"sliding_window": 64, "use_sliding_window": False}) == []
    assert architectures.differences(CONFIGS["gemma2"] | {"sliding_window": 64}) == []


def test_longrope_that_llama_cpp_chooses_by_its_context_is_told() -> None:
    assert "-c 64" in architectures.differences(CONFIGS["phi4_mini"])[0]
    assert architectures.differences(CONFIGS["phi4_mini"] | {"original_max_position_embeddings": 256}) == []


def test_old_constants_are_dropped() -> None:
    shapes = checkpoint_shapes(CONFIGS["llama"])
    constant = {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,)}
    plan = architectures.plan_tensors(CONFIGS["llama"], shapes | constant)
    assert len(plan) == len(shapes)
    assert architectures.left_out(CONFIGS["llama"], shapes | constant) == list(constant)
    head = {"lm_head.weight": (48, 32)}
    assert architectures.left_out(CONFIGS["gemma2"], checkpoint_shapes(CONFIGS["gemma2"]) | head) == list(head)


@pytest.mark.parametrize(
    ("name", "added", "removed", "words"),
    [
        ("llama", {"model.layers.0.mlp.extra.weight": (2, 2)}, "", "model.layers.0.mlp.extra.weight of the checkpoint"),
        ("llama", {"model.layers.7.input_layernorm.weight": (32,)}, "", "model.layers.7.input_layernorm.weight"),
        ("llama", {}, "model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight is missing"),
        ("llama", {}, "lm_head.weight", "lm_head.weight is missing"),
        ("qwen2", {}, "model.layers.0.self_attn.q_proj.bias", "q_proj.bias is missing"),
        ("mixtral", {}, "model.layers.0.block_sparse_moe.experts.2.w3.weight", "experts.2.w3.weight is missing"),
        ("mixtral", {"model.layers.0.mlp.experts.gate_up_proj": (3, 128, 32)}, "", "both stacked and one by one"),
        ("llama", {"model.layers.0.self_attn.q_proj.weight": (16, 32)}, "", "is 16 x 32, config.json says 32 x 32"),
        ("llama", {"model.embed_tokens.weight": (48, 16)}, "", "config.json says any x 32"),
        ("gemma2", {"lm_head.weight": (48, 32)}, "model.norm.weight", "model.norm.weight is missing"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(
    name: str, added: dict[str, tuple[int, ...]], removed: str, words: str
) -> None:
    shapes = checkpoint_shapes(CONFIGS[name]) | added
    shapes.pop(removed, None)
    with pytest.raises(ExportError) as caught:
        architectures.plan_tensors(CONFIGS[name], shapes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gemma_2_with_an_output_head_of_its_own_is_refused() -> None:
    config = CONFIGS["gemma2"] | {"tie_word_embeddings": False}
    with pytest.raises(ExportError, match="no place for an output head"):
        architectures.plan_tensors(config, checkpoint_shapes(config))


def checkpoint_of(folder: Path) -> tuple[Config, dict[str, tuple[int, ...]]]:
    """Read a real model's configuration, and its tensors' shapes from the header."""
    content = (folder / "model.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    shapes = {name: tuple(item["shape"]) for name, item in header.items() if name != "__metadata__"}
    return json.loads((folder / "config.json").read_text(encoding="utf-8")), shapes


def check_real_model(folder: Path) -> None:
    """Assert that a real checkpoint is written completely."""
    config, shapes = checkpoint_of(folder)
    architectures.check_architecture(config, str(folder))
    plan = architectures.plan_tensors(config, shapes)
    assert sum(tensor.num_values for tensor in plan) == sum(math.prod(shape) for shape in shapes.values())


def test_the_embedded_model_is_written_completely() -> None:
    check_real_model(ROOT / "models" / "embedded")


@pytest.mark.parametrize("name", ["stories260k", "babyllama-1m", "tinystories-656k"])
def test_real_models_are_written_completely(shared_dir: Path, name: str) -> None:
    check_real_model(shared_dir / "models" / name)
