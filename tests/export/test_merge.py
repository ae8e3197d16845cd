"""The merge equals base + adapter under plain PEFT, for every variant and architecture, to rounding."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import ExportError
from finetune.export.merge import MergePlan, RoundTrip, check_values, plan_merge
from finetune.export.merged_rows import merged_blocks
from finetune.export.safetensors import write_safetensors

from .gguf.random_models import save_random_model

VARIANTS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 8}, "alpha_pattern": {"k_proj": 32}},
    "rslora_patterns": {"use_rslora": True, "rank_pattern": {"q_proj": 9}},
    "modules_to_save": {"modules_to_save": ["norm"]},
    "one_layer": {"target_modules": ["v_proj"], "layers_to_transform": [1]},
    "half_precision": {},
}

TIED = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "dora_embedding": {"target_modules": ["embed_tokens"], "use_dora": True},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "saved_embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved_both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved_tied": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "lora_tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
}


def weights(plan: MergePlan, block_bytes: int = 1000) -> dict[str, torch.Tensor]:
    """All output tensors; small blocks, so that every tensor is cut."""
    return {
        tensor.name: torch.cat(list(merged_blocks(tensor, plan.round_trip, block_bytes))) for tensor in plan.tensors
    }


def sequences() -> torch.Tensor:
    """Two random token sequences that every tiny model understands."""
    return torch.randint(0, 60, (2, 24), generator=torch.Generator().manual_seed(0))


def exported_logits(plan: MergePlan, folder: Path) -> torch.Tensor:
    """Write the model, load it as any user would, and run it in float32."""
    from transformers import AutoModelForCausalLM

    write_safetensors(plan, folder, tokenizer=None, card="")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=sequences()).logits


def assert_rounded(actual: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """`actual` is `expected`, rounded once to its type (and off by one sum's order)."""
    half_step = torch.finfo(actual.dtype).eps / 2
    torch.testing.assert_close(
        actual.float(), expected, rtol=half_step * 1.01, atol=2e-6, msg=lambda text: f"{name}: {text}"
    )


@pytest.fixture(scope="module")
def float32_dir(make_tiny_model: Callable[..., Path]) -> Path:
    """An untied tiny model in float32, so that nothing is hidden by rounding."""
    return widened(make_tiny_model(tie_word_embeddings=False))


def widened(folder: Path) -> Path:
    """Store a folder's weights in float32."""
    path = folder / "model.safetensors"
    save_file({name: weight.float() for name, weight in load_file(path).items()}, path, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    return folder


def stored_as_head(folder: Path) -> Path:
    """Store a tied pair under the output head's name, as some checkpoints do."""
    path = folder / "model.safetensors"
    stored = load_file(path)
    stored["lm_head.weight"] = stored.pop("model.embed_tokens.weight")
    save_file(stored, path, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("variant", VARIANTS)
def test_merge_equals_peft(
    variant: str,
    float32_dir: Path,
    tiny_model_dir: Path,
    make_adapter: Callable[..., Path],
    peft_merged: Callable[..., dict[str, Any]],
) -> None:
    base = tiny_model_dir if variant == "half_precision" else float32_dir
    adapter = make_adapter(base, **VARIANTS[variant])
    merged, expected = weights(plan_merge(base, adapter)), peft_merged(base, adapter)
    stored = load_file(base / "model.safetensors")
    assert set(merged) == set(stored)
    changed = 0
    for name, weight in merged.items():
        assert weight.dtype == stored[name].dtype
        assert_rounded(weight, expected[name], name)
        changed += not torch.equal(weight, stored[name])
    assert changed >= 1


@pytest.mark.few(1)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "target_modules": ["w1", "w3", "w2", "q_proj"]}])
@pytest.mark.parametrize("kind", ["mixtral", "qwen3moe"])
def test_stacked_experts_are_merged_into_the_checkpoints_own_tensors(
    kind: str,
    options: dict[str, Any],
    tmp_path: Path,
    make_adapter: Callable[..., Path],
    peft_logits: Callable[..., torch.Tensor],
) -> None:
    base = tmp_path / "base"
    save_random_model(kind, base)
    if kind == "qwen3moe" and options:
        options = options | {"target_modules": ["down_proj", "k_proj"]}
    adapter = make_adapter(base, **options)
    plan = plan_merge(base, adapter)
    changed = {tensor.name for tensor in plan.tensors if not tensor.is_copy}
    num_experts = 3 * 4 * (1 if kind == "qwen3moe" and options else 3)
    assert len([name for name in changed if ".experts." in name]) == num_experts
    logits = exported_logits(plan, tmp_path / "out")
    expected = peft_logits(base, adapter, sequences())
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_experts_of_another_base_are_refused(tmp_path: Path, make_adapter: Callable[..., Path]) -> None:
    save_random_model("mixtral", tmp_path / "mixtral")
    adapter = make_adapter(tmp_path / "mixtral")
    save_random_model("qwen3moe", tmp_path / "qwen3moe")
    save_random_model("mixtral", tmp_path / "stacked", save_original_format=False)
    with pytest.raises(ExportError, match="another base"):
        plan_merge(tmp_path / "qwen3moe", adapter)
    with pytest.raises(ExportError, match="does not store expert by expert"):
        plan_merge(tmp_path / "stacked", adapter)


def test_dora_scales_every_output_to_its_magnitude(float32_dir: Path, make_adapter: Callable[..., Path]) -> None:
    adapter = make_adapter(float32_dir, use_dora=True)
    magnitudes = {
        name.removeprefix("base_model.model.").replace(".lora_magnitude_vector", ".weight"): tensor
        for name, tensor in load_file(adapter / "adapter_model.safetensors").items()
        if name.endswith("magnitude_vector")
    }
    merged = weights(plan_merge(float32_dir, adapter))
    assert len(magnitudes) == 14
    for name, magnitude in magnitudes.items():
        torch.testing.assert_close(merged[name].norm(dim=1), magnitude)


@pytest.mark.parametrize("case", TIED)
def test_tied_embeddings_are_untied_where_one_side_is_trained(
    case: str,
    tmp_path: Path,
    tiny_model_dir: Path,
    make_adapter: Callable[..., Path],
    peft_logits: Callable[..., torch.Tensor],
) -> None:
    base = widened(Path(shutil.copytree(tiny_model_dir, tmp_path / "base")))
    adapter = make_adapter(base, **TIED[case])
    plan = plan_merge(base, adapter)
    assert plan.untied
    logits = exported_logits(plan, tmp_path / "out")
    torch.testing.assert_close(logits, peft_logits(base, adapter, sequences()), rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("case", TIED)
def test_a_tied_pair_that_is_stored_as_its_head_is_untied_alike(
    case: str,
    tmp_path: Path,
    tiny_model_dir: Path,
    make_adapter: Callable[..., Path],
    peft_logits: Callable[..., torch.Tensor],
) -> None:
    base = stored_as_head(widened(Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))))
    adapter = make_adapter(base, **TIED[case])
    plan = plan_merge(base, adapter)
    assert plan.untied
    logits = exported_logits(plan, tmp_path / "out")
    torch.testing.assert_close(logits, peft_logits(base, adapter, sequences()), rtol=1e-4, atol=1e-5)


def test_a_tied_pair_that_is_stored_as_its_head_stays_so_where_neither_side_is_trained(
    tmp_path: Path, tiny_model_dir: Path, plain_adapter_dir: Path
) -> None:
    base = stored_as_head(Path(shutil.copytree(tiny_model_dir, tmp_path / "base")))
    plan = plan_merge(base, plain_adapter_dir)
    assert not plan.untied
    assert {tensor.name for tensor in plan.tensors} == set(load_file(base / "model.safetensors"))


def test_a_changed_head_whose_embedding_has_no_known_name_is_refused(
    tmp_path: Path, tiny_model_dir: Path, make_adapter: Callable[..., Path]
) -> None:
    adapter = make_adapter(tiny_model_dir, target_modules=["lm_head"])
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    head = load_file(base / "model.safetensors")["model.embed_tokens.weight"]
    save_file({"lm_head.weight": head}, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match="stores for its embedding too"):
        plan_merge(base, adapter)


def test_tied_embeddings_stay_tied_where_neither_side_is_trained(tiny_model_dir: Path, plain_adapter_dir: Path) -> None:
    plan = plan_merge(tiny_model_dir, plain_adapter_dir)
    assert not plan.untied
    assert "lm_head.weight" not in {tensor.name for tensor in plan.tensors}


def small(**changes: Any) -> dict[str, Any]:
    """Sizes that all architectures share."""
    return {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    } | changes


def architectures() -> dict[str, Callable[[], Any]]:
    """Tiny configurations of other architectures."""
    import transformers as t

    return {
        "qwen2": lambda: t.Qwen2Config(**small(tie_word_embeddings=False)),
        "phi3": lambda: t.Phi3Config(**small()),
        "gemma3": lambda: t.Gemma3TextConfig(**small(head_dim=8, layer_types=["full_attention"] * 2)),
        "mixtral": lambda: t.MixtralConfig(**small(num_local_experts=2)),
        "gpt2": lambda: t.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    }


ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2": ("qwen2", {}),
    "qwen2_all_biases": ("qwen2", {"bias": "all"}),
    "qwen2_adapted_biases": ("qwen2", {"bias": "lora_only", "target_modules": ["q_proj"]}),
    "phi3": ("phi3", {}),
    "gemma3": ("gemma3", {}),
    "gemma3_scaled_embedding": ("gemma3", {"target_modules": ["embed_tokens", "q_proj"]}),
    "mixtral": ("mixtral", {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
    "gpt2": ("gpt2", {}),
    "gpt2_dora": ("gpt2", {"use_dora": True}),
    "gpt2_head": ("gpt2", {"target_modules": ["c_attn", "c_proj", "lm_head"]}),
}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.few(4)
@pytest.mark.parametrize("case", ARCHITECTURES)
def test_merge_equals_peft_on_other_architectures(
    case: str,
    tmp_path: Path,
    make_adapter: Callable[..., Path],
    peft_logits: Callable[..., torch.Tensor],
) -> None:
    from transformers import AutoModelForCausalLM

    kind, options = ARCHITECTURES[case]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(architectures()[kind]()).save_pretrained(tmp_path / "base")
    adapter = make_adapter(tmp_path / "base", **options)
    logits = exported_logits(plan_merge(tmp_path / "base", adapter), tmp_path / "out")
    expected = peft_logits(tmp_path / "base", adapter, sequences())
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=2e-5)
    unchanged = AutoModelForCausalLM.from_pretrained(tmp_path / "base")(input_ids=sequences()).logits
    assert (unchanged - expected).abs().max() > 1e-3


def test_older_names_with_another_prefix_are_matched(
    tmp_path: Path, float32_dir: Path, make_adapter: Callable[..., Path]
) -> None:
    adapter = make_adapter(float32_dir)
    stored = load_file(float32_dir / "model.safetensors")
    renamed = {f"language_model.{name}": weight for name, weight in stored.items()}
    vision = {f"vision_tower.layers.{layer}.self_attn.q_proj.weight": torch.zeros(3, 3) for layer in range(2)}
    save_file(renamed | vision, tmp_path / "model.safetensors")
    shutil.copy(float32_dir / "config.json", tmp_path)
    merged = weights(plan_merge(tmp_path, adapter))
    for name, weight in weights(plan_merge(float32_dir, adapter)).items():
        assert torch.equal(merged[f"language_model.{name}"], weight)
    assert all(torch.equal(merged[name], weight) for name, weight in vision.items())


def test_ambiguous_names_are_refused(tmp_path: Path, float32_dir: Path, make_adapter: Callable[..., Path]) -> None:
    adapter = make_adapter(float32_dir)
    stored = load_file(float32_dir / "model.safetensors")
    save_file(
        {f"{tower}.{name}": weight.clone() for name, weight in stored.items() for tower in ("a", "b")},
        tmp_path / "model.safetensors",
    )
    shutil.copy(float32_dir / "config.json", tmp_path)
    with pytest.raises(ExportError, match=r"could be any of a\.model"):
        plan_merge(tmp_path, adapter)


def test_dequantised_base_rounds_linear_weights_only(tiny_model_dir: Path, make_adapter: Callable[..., Path]) -> None:
    adapter = make_adapter(tiny_model_dir, target_modules=["q_proj"])
    seen: list[tuple[int, ...]] = []

    def coarse(weight: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(weight.shape))
        return (weight * 64).round() / 64

    merged = weights(plan_merge(tiny_model_dir, adapter, round_trip=RoundTrip(function=coarse)))
    plain = weights(plan_merge(tiny_model_dir, adapter))
    stored = load_file(tiny_model_dir / "model.safetensors")
    assert len(seen) == 14
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(merged[name], (stored[name] * 64).round() / 64)
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(merged[name], stored[name])
    name = "model.layers.0.self_attn.q_proj.weight"
    update = plain[name].float() - stored[name].float()
    torch.testing.assert_close(
        merged[name].float(), (stored[name] * 64).round().float() / 64 + update, atol=2e-4, rtol=2e-3
    )


def test_fully_trained_weights_skip_the_round_trip(tiny_model_dir: Path, make_adapter: Callable[..., Path]) -> None:
    adapter = make_adapter(tiny_model_dir, target_modules=["q_proj"], modules_to_save=["up_proj"])
    merged = weights(plan_merge(tiny_model_dir, adapter, round_trip=RoundTrip(function=torch.zeros_like)))
    trained = load_file(adapter / "adapter_model.safetensors")["base_model.model.model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(merged["model.layers.0.mlp.up_proj.weight"], trained.half())
    assert not merged["model.layers.0.mlp.down_proj.weight"].any()


UNKNOWN = {
    "use_qalora": True,
    "lora_bias": True,
    "layer_replication": [[0, 1], [0, 1]],
    "trainable_token_indices": [1],
    "target_parameters": ["experts.gate_up_proj"],
    "alora_invocation_tokens": [1],
    "use_bdlora": {"nblocks": 2},
    "an_option_of_next_year": 1,
}


@pytest.fixture
def copied_adapter(tmp_path: Path, plain_adapter_dir: Path) -> Path:
    """An adapter that a test may damage."""
    return Path(shutil.copytree(plain_adapter_dir, tmp_path / "adapter"))


def change_options(adapter: Path, **changes: Any) -> None:
    """Change entries of adapter_config.json."""
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(adapter: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the adapter's tensors in place."""
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("option", UNKNOWN)
def test_unknown_variants_are_refused(option: str, copied_adapter: Path, tiny_model_dir: Path) -> None:
    change_options(copied_adapter, **{option: UNKNOWN[option]})
    with pytest.raises(ExportError, match=option):
        plan_merge(tiny_model_dir, copied_adapter)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "VERA"}, "'VERA'"),
        ({"init_lora_weights": "pissa"}, "convert it to plain LoRA"),
        ({"bias": "some"}, "bias='some' is unknown"),
        ({"r": 8}, "not those of rank 8"),
        ({"use_dora": True}, "incomplete"),
        ({"alpha_pattern": {"q_proj": "x"}}, "configuration is damaged"),
    ],
)
def test_contradicting_options_are_refused(
    changes: dict[str, Any], message: str, copied_adapter: Path, tiny_model_dir: Path
) -> None:
    change_options(copied_adapter, **changes)
    with pytest.raises(ExportError, match=message):
        plan_merge(tiny_model_dir, copied_adapter)


Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda found: found.update({"base_model.model.model.odd.vera_lambda": torch.ones(2)}),
            "model.odd.vera_lambda",
        ),
        (lambda found: found.update({"model.layers.0.self_attn.q_proj.weight": torch.ones(2)}), "no rule to merge 1"),
        (lambda found: found.update({"base_model.model.model.norm.weight": torch.ones(64)}), "model.norm.weight"),
        (lambda found: found.pop(f"{Q_PROJ}.lora_A.weight"), "layers.0.self_attn.q_proj has up.* incomplete"),
        (lambda found: found.update({f"{Q_PROJ}.lora_B.weight": torch.ones(60, 4)}), "made for another base"),
        (lambda found: found.update({f"{Q_PROJ}.lora_magnitude_vector": torch.ones(64)}), "incomplete"),
        (lambda found: found.clear(), "holds no tensors"),
        (
            lambda found: found.update({key.replace("layers.0", "layers.7"): found.pop(key) for key in list(found)}),
            "no tensor model.layers.7",
        ),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, copied_adapter: Path, tiny_model_dir: Path
) -> None:
    change_tensors(copied_adapter, change)
    with pytest.raises(ExportError, match=message):
        plan_merge(tiny_model_dir, copied_adapter)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_named(value: float, copied_adapter: Path, tiny_model_dir: Path) -> None:
    change_tensors(copied_adapter, lambda found: found[f"{Q_PROJ}.lora_A.weight"][1, 2].fill_(value))
    plan = plan_merge(tiny_model_dir, copied_adapter)
    with pytest.raises(ExportError, match=r"layers\.0\.self_attn\.q_proj\.lora_A\.weight holds NaN or infinity"):
        check_values(plan)


def test_values_beyond_float16_stop_the_export(copied_adapter: Path, tiny_model_dir: Path) -> None:
    change_tensors(copied_adapter, lambda found: found[f"{Q_PROJ}.lora_A.weight"].fill_(1e6))
    with pytest.raises(ExportError, match=r"q_proj\.weight: a merged value is not finite in F16"):
        weights(plan_merge(tiny_model_dir, copied_adapter))


def test_other_formats_and_damaged_files_are_refused(
    copied_adapter: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"no model\.safetensors"):
        plan_merge(tmp_path, copied_adapter)
    path = copied_adapter / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ExportError, match="truncated"):
        plan_merge(tiny_model_dir, copied_adapter)
    path.write_bytes(b"PK" + whole)
    with pytest.raises(ExportError, match="no safetensors file"):
        plan_merge(tiny_model_dir, copied_adapter)
    path.rename(copied_adapter / "adapter_model.bin")
    with pytest.raises(ExportError, match=r"\.bin"):
        plan_merge(tiny_model_dir, copied_adapter)


def test_quantised_base_weights_are_refused(tmp_path: Path, tiny_model_dir: Path, plain_adapter_dir: Path) -> None:
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    stored = load_file(base / "model.safetensors")
    stored["model.layers.0.mlp.up_proj.weight"] = torch.zeros(4096, 1, dtype=torch.uint8)
    save_file(stored, base / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"load_in_4bit": True}}))
    with pytest.raises(ExportError, match="stored quantised"):
        plan_merge(base, plain_adapter_dir)
