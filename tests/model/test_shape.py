"""Sizes out of config.json, and what follows from them."""

import os
from pathlib import Path
from typing import Any

import pytest

from finetune.config import AUTO, MISSING, ShapeConfig
from finetune.errors import ModelError
from finetune.model.shape import (
    check_shape,
    context_of,
    num_parameters,
    read_model_config,
    recommend,
    shape_of,
)

SHAPE = {"num_layers": 2, "hidden_size": 64, "intermediate_size": 160, "num_heads": 4, "num_kv_heads": 2}
DENSE = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def expected(**changes: Any) -> ShapeConfig:
    return ShapeConfig(**({**SHAPE, "head_dim": 16, "vocab_size": 300} | changes))


FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}, {}),
    "mistral": ("MistralConfig", {"head_dim": 32}, {"head_dim": 32}),
    "mixtral": ("MixtralConfig", {"num_local_experts": 8}, {"num_experts": 8, "experts_per_token": 2}),
    "qwen2": ("Qwen2Config", {}, {}),
    "qwen3": ("Qwen3Config", {"head_dim": 128}, {"head_dim": 128}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"num_experts": 4, "moe_intermediate_size": 48, "head_dim": 16},
        {"num_experts": 4, "intermediate_size": 48, "experts_per_token": 8},
    ),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 32, "tie_word_embeddings": True},
        {"head_dim": 32, "tied_embeddings": True},
    ),
    "phi3": ("Phi3Config", {}, {}),
    "smollm3": ("SmolLM3Config", {"tie_word_embeddings": True}, {"tied_embeddings": True}),
    "granite": ("GraniteConfig", {}, {}),
    "olmo2": ("Olmo2Config", {}, {}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_of_each_family_as_transformers_writes_them(family: str) -> None:
    import transformers

    name, more, changes = FAMILIES[family]
    config = getattr(transformers, name)(**(DENSE | more)).to_dict()
    assert config["model_type"] == family
    assert shape_of(config) == expected(**changes)
    assert context_of(config) == 128


def test_a_multimodal_model_is_described_by_its_language_model() -> None:
    from transformers import Gemma3Config

    text = DENSE | {"head_dim": 32, "tie_word_embeddings": True}
    config = Gemma3Config(text_config=text, tie_word_embeddings=True).to_dict()
    assert shape_of(config) == expected(head_dim=32, tied_embeddings=True)
    assert context_of(config) == 128


def test_gemma3_names_only_what_differs_from_its_defaults() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    published = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}}
    shape = shape_of(published)
    assert (shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.vocab_size) == (8, 4, 256, 262_208)
    assert shape.tied_embeddings
    assert context_of(published) == 131_072


FALCON = {"model_type": "falcon", "hidden_size": 4544, "n_head": 71, "n_layer": 32, "vocab_size": 65024}


@pytest.mark.parametrize(
    ("more", "num_kv_heads"),
    [
        ({"multi_query": True}, 1),
        ({"multi_query": False}, 71),
        ({"multi_query": True, "new_decoder_architecture": True, "n_head_kv": 8}, 8),
        ({"new_decoder_architecture": True, "num_kv_heads": 8}, 8),
    ],
)
def test_falcon_in_its_old_names(more: dict[str, Any], num_kv_heads: int) -> None:
    shape = shape_of(FALCON | more)
    assert (shape.num_layers, shape.num_heads, shape.head_dim, shape.intermediate_size) == (32, 71, 64, 4 * 4544)
    assert shape.num_kv_heads == num_kv_heads
    assert shape.tied_embeddings
    assert context_of(FALCON) == 2048


def test_falcon_and_gpt2_as_transformers_writes_them() -> None:
    from transformers import FalconConfig, GPT2Config

    falcon = shape_of(FalconConfig().to_dict())
    assert (falcon.num_kv_heads, falcon.intermediate_size, falcon.num_heads) == (1, 18_176, 71)
    gpt2 = GPT2Config().to_dict()
    shape = shape_of(gpt2)
    assert (shape.num_layers, shape.hidden_size, shape.intermediate_size, shape.num_kv_heads) == (12, 768, 3072, 12)
    assert context_of(gpt2) == 1024


def test_old_llama_files_without_kv_heads_have_one_for_each_head() -> None:
    config: dict[str, Any] = {**DENSE, "model_type": "llama", "num_key_value_heads": None}
    assert shape_of(config).num_kv_heads == 4


@pytest.mark.parametrize(
    "name", ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"]
)
def test_a_missing_or_senseless_size_is_named(name: str) -> None:
    config: dict[str, Any] = {**DENSE, "model_type": "llama"}
    with pytest.raises(ModelError, match=rf"{name} is '64'"):
        shape_of(config | {name: "64"})
    with pytest.raises(ModelError, match=rf"{name} is 0"):
        shape_of(config | {name: 0})
    del config[name]
    with pytest.raises(ModelError, match=rf"{name} is missing"):
        shape_of(config)


def test_heads_that_do_not_divide_the_width_and_a_missing_context() -> None:
    with pytest.raises(ModelError, match="no multiple of 3 heads"):
        shape_of({**DENSE, "num_attention_heads": 3})
    with pytest.raises(ModelError, match="max_position_embeddings is missing"):
        context_of({})


SHARED_SIZES = {
    "stories260k": ((5, 64, 172, 8, 4, 8, 512), 512),
    "babyllama-1m": ((5, 128, 352, 8, 4, 16, 105), 256),
    "tinystories-656k": ((2, 128, 384, 8, 4, 16, 2048), 512),
}


@pytest.mark.parametrize("name", SHARED_SIZES)
def test_real_models(name: str, shared_dir: Path) -> None:
    sizes, context = SHARED_SIZES[name]
    folder = shared_dir / "models" / name
    config = read_model_config(folder)
    shape = shape_of(config)
    names = ("num_layers", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim", "vocab_size")
    assert tuple(getattr(shape, name) for name in names) == sizes
    assert shape.tied_embeddings
    assert context_of(config) == context


@pytest.mark.parametrize("name", SHARED_SIZES)
def test_the_count_of_weights_is_that_of_the_file(name: str, shared_dir: Path) -> None:
    from safetensors import safe_open

    folder = shared_dir / "models" / name
    total = 0
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118
            size = 1
            for length in file.get_slice(key).get_shape():
                size *= length
            total += size
    assert num_parameters(shape_of(read_model_config(folder))) == total


def test_a_wrong_declaration_is_listed_field_by_field() -> None:
    config = {**DENSE, "model_type": "llama"}
    check_shape(expected(), config)
    check_shape(expected(vocab_size=MISSING), config)
    with pytest.raises(ModelError) as caught:
        check_shape(expected(num_layers=3, tied_embeddings=True), config)
    assert "num_layers is declared as 3 but config.json has 2" in str(caught.value)
    assert "tied_embeddings is declared as True but config.json has False" in str(caught.value)
    assert "hidden_size" not in str(caught.value)


def test_recommendations_follow_the_width() -> None:
    rates = {width: recommend(expected(hidden_size=width), 2048).learning_rate for width in (64, 256, 1024, 2048, 4096)}
    assert rates[64] == 5e-3
    assert rates[256] == 3e-3
    assert rates[4096] == 2e-4
    assert list(rates.values()) == sorted(rates.values(), reverse=True)
    small, large = recommend(expected(hidden_size=1024), 4096), recommend(expected(hidden_size=2048), 131_072)
    assert (small.max_length, small.micro_batch_tokens, small.batch_tokens) == (512, 1024, 2048)
    assert (large.max_length, large.micro_batch_tokens, large.batch_tokens) == (2048, AUTO, 16_384)
    assert recommend(expected(), 256).max_length == 256


def test_reading_sizes_imports_no_torch(tiny_model_dir: Path) -> None:
    import subprocess
    import sys

    script = (
        "import sys; from pathlib import Path; from finetune.model import hub, license, shape;"
        "shape.shape_of(shape.read_model_config(Path(sys.argv[1])));"
        "print([name for name in ('torch', 'transformers', 'datasets', 'huggingface_hub') if name in sys.modules])"
    )
    root = str(Path(__file__).resolve().parents[2])
    environment = dict(os.environ, PYTHONPATH=root)
    result = subprocess.run(
        [sys.executable, "-c", script, str(tiny_model_dir)], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout.strip() == "[]"
