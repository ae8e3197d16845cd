"""The gate: a right export passes, and one wrong tensor, template or special token does not."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune.errors import ExportError, ModelError, ResourceError
from finetune.evaluation import model_outputs, verify
from finetune.evaluation.verify import (
    Reference,
    answer_loss,
    reference_outputs,
    trained_shift_kl,
    verification_to_json,
    verify_safetensors,
)
from finetune.export.merge import RoundTrip, plan_merge
from finetune.export.safetensors import write_safetensors
from finetune.records import Verification

pytestmark = pytest.mark.slow

PROMPTS = [[5 + (7 * start + 3 * step) % 250 for step in range(40)] for start in range(6)]
STARTS = [20] * 6


def random_adapter(base_dir: Path, target: Path, std: float = 0.05, **options: Any) -> Path:
    """Save a LoRA adapter with random values."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=std)
    model.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def base_dir(make_tiny_model: Callable[..., Path]) -> Path:
    """A tiny model with weights large enough to prefer some tokens clearly, as trained models do."""
    return make_tiny_model(initializer_range=0.15)


@pytest.fixture(scope="module")
def adapter_dir(base_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_adapter(base_dir, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def tokenizer(base_dir: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base_dir)


@pytest.fixture(scope="module")
def reference(base_dir: Path, adapter_dir: Path) -> Iterator[Reference]:
    with reference_outputs(base_dir, adapter_dir, PROMPTS, starts=STARTS, max_new_tokens=8) as outputs:
        yield outputs


@pytest.fixture(scope="module")
def exported_dir(base_dir: Path, adapter_dir: Path, tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "safetensors"
    return write_safetensors(plan_merge(base_dir, adapter_dir), folder, tokenizer=tokenizer, card="").path


@pytest.fixture
def damaged_dir(exported_dir: Path, tmp_path: Path) -> Path:
    """A copy of the export that a test may damage."""
    return Path(shutil.copytree(exported_dir, tmp_path / "damaged"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.bar("R14")
def test_a_right_export_passes(exported_dir: Path, reference: Reference, tokenizer: Any) -> None:
    found = verify_safetensors(exported_dir, reference, tokenizer=tokenizer, quantization_shift_kl_mean=0.25)
    assert found.passed, found.reason
    assert found.reason == ""
    assert 0 < found.kl_mean <= found.kl_p99 < 1e-5
    assert 0 < found.max_abs_logit_difference < 0.05
    assert found.top1_agreement >= 0.99
    assert found.greedy_match >= 0.97
    assert found.num_tokens == 240
    assert found.quantization_shift_kl_mean == 0.25


@pytest.mark.bar("R14")
def test_the_base_alone_does_not_pass(base_dir: Path, reference: Reference, tokenizer: Any) -> None:
    found = verify_safetensors(base_dir, reference, tokenizer=tokenizer)
    assert not found.passed
    assert "most likely token agrees at" in found.reason
    assert "greedy outputs agree on" in found.reason
    assert "KL divergence" in found.reason


@pytest.mark.bar("R14")
@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.k_proj.weight"],
)
def test_one_wrong_tensor_fails(name: str, damaged_dir: Path, reference: Reference, tokenizer: Any) -> None:
    change_weights(damaged_dir, lambda weights: weights[name].mul_(1.2))
    assert not verify_safetensors(damaged_dir, reference, tokenizer=tokenizer).passed


@pytest.mark.bar("R14")
def test_the_update_of_one_tensor_left_out_fails(
    damaged_dir: Path, base_dir: Path, reference: Reference, tokenizer: Any
) -> None:
    name, base = "model.layers.1.self_attn.v_proj.weight", load_file(base_dir / "model.safetensors")
    change_weights(damaged_dir, lambda weights: weights.update({name: base[name]}))
    assert not verify_safetensors(damaged_dir, reference, tokenizer=tokenizer).passed


@pytest.mark.bar("R14")
def test_a_tensor_left_out_is_named(damaged_dir: Path, reference: Reference, tokenizer: Any) -> None:
    change_weights(damaged_dir, lambda weights: weights.pop("model.norm.weight"))
    found = verify_safetensors(damaged_dir, reference, tokenizer=tokenizer)
    assert not found.passed
    assert "missing keys: model.norm.weight" in found.reason


@pytest.mark.bar("R14")
def test_another_template_fails(damaged_dir: Path, reference: Reference, tokenizer: Any) -> None:
    path = damaged_dir / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_end|>", "<|endoftext|>", 1))
    found = verify_safetensors(damaged_dir, reference, tokenizer=tokenizer)
    assert not found.passed
    assert (found.template_match, found.tokenizer_match) == (False, True)
    assert found.reason == "the chat template differs from the one that was trained with"
    path.unlink()
    assert not verify_safetensors(damaged_dir, reference, tokenizer=tokenizer).template_match


@pytest.mark.bar("R14")
@pytest.mark.parametrize("damage", ["eos", "special", "merge"])
def test_another_tokenizer_fails(damage: str, damaged_dir: Path, reference: Reference, tokenizer: Any) -> None:
    vocabulary = damaged_dir / "tokenizer.json"
    if damage == "eos":
        change_json(damaged_dir / "tokenizer_config.json", lambda content: content.update(eos_token="<|endoftext|>"))
    elif damage == "special":
        change_json(vocabulary, lambda content: content["added_tokens"].pop(1))
    else:
        change_json(vocabulary, lambda content: content["model"]["merges"].pop(0))
    found = verify_safetensors(damaged_dir, reference, tokenizer=tokenizer)
    assert not found.passed
    assert not found.tokenizer_match
    assert "tokenizer encodes differently" in found.reason


@pytest.mark.bar("R14")
def test_what_does_not_load_is_an_export_error(damaged_dir: Path, reference: Reference, tokenizer: Any) -> None:
    path = damaged_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ExportError, match="the exported model does not load"):
        verify_safetensors(damaged_dir, reference, tokenizer=tokenizer)
    (damaged_dir / "tokenizer.json").write_text("{")
    with pytest.raises(ExportError, match="the exported tokenizer does not load"):
        verify_safetensors(damaged_dir, reference, tokenizer=tokenizer)


@pytest.mark.bar("R14")
def test_numbers_that_are_not_finite_are_an_export_error(
    damaged_dir: Path, reference: Reference, tokenizer: Any
) -> None:
    change_weights(damaged_dir, lambda weights: weights["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(ExportError, match="NaN or infinity"):
        verify_safetensors(damaged_dir, reference, tokenizer=tokenizer)


def test_one_rounded_tie_is_forgiven_and_two_in_a_hundred_are_not() -> None:
    right = Verification(
        passed=True,
        max_abs_logit_difference=0.0,
        top1_agreement=1.0,
        greedy_match=1.0,
        tokenizer_match=True,
        template_match=True,
        kl_mean=0.0,
        num_tokens=100,
    )
    assert not list(verify._failures(right, 100, 1e-6))
    assert not list(verify._failures(replace(right, top1_agreement=0.99, greedy_match=31 / 32), 32, 1e-6))
    assert len(list(verify._failures(replace(right, top1_agreement=0.98), 100, 1e-6))) == 1
    assert len(list(verify._failures(replace(right, greedy_match=0.98), 100, 1e-6))) == 1
    assert len(list(verify._failures(replace(right, kl_mean=math.nan), 100, 1e-6))) == 1


def test_kl_divergence_equals_its_definition() -> None:
    expected_TV, actual_TV = torch.randn(70, 11), torch.randn(70, 11)
    p_TV, q_TV = expected_TV.softmax(-1), actual_TV.softmax(-1)
    wanted = (p_TV * (p_TV / q_TV).log()).sum(-1).double()
    torch.testing.assert_close(model_outputs.kl_divergence(expected_TV, actual_TV), wanted, rtol=1e-4, atol=1e-6)


def test_greedy_tokens_are_what_generate_finds(base_dir: Path, reference: Reference, adapter_dir: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter_dir)
    ids = torch.tensor([PROMPTS[2][:20]])
    generated = model.generate(input_ids=ids, do_sample=False, max_new_tokens=8, eos_token_id=None, pad_token_id=0)
    assert generated[0, 20:].tolist() == reference.continuations[2]


def test_weights_widened_while_running_give_the_same_logits(
    base_dir: Path, adapter_dir: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_outputs, "_fits_in_float32", lambda model, device: False)
    with reference_outputs(base_dir, adapter_dir, PROMPTS[:2], starts=STARTS[:2], max_new_tokens=8) as outputs:
        assert torch.equal(outputs.logits(1), reference.logits(1))
        assert outputs.continuations == reference.continuations[:2]
    with model_outputs.plain_model(base_dir, "cpu") as plain:
        model_outputs.logits_of(plain.model, PROMPTS[0])
        assert {weight.dtype for weight in plain.model.parameters()} == {torch.float16}


def test_dequantised_export_is_compared_with_the_dequantised_base(
    base_dir: Path, adapter_dir: Path, tokenizer: Any, reference: Reference, tmp_path: Path
) -> None:
    def coarse(weight: torch.Tensor) -> torch.Tensor:
        return (weight * 8).round() / 8

    plan = plan_merge(base_dir, adapter_dir, round_trip=RoundTrip(function=coarse))
    write_safetensors(plan, tmp_path / "out", tokenizer=tokenizer, card="")
    with reference_outputs(
        base_dir, adapter_dir, PROMPTS, starts=STARTS, max_new_tokens=8, round_trip=coarse
    ) as dequantized:
        assert verify_safetensors(tmp_path / "out", dequantized, tokenizer=tokenizer).passed
    assert not verify_safetensors(tmp_path / "out", reference, tokenizer=tokenizer).passed


def test_shift_from_the_trained_function(base_dir: Path, adapter_dir: Path, reference: Reference) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter_dir).train()
    assert trained_shift_kl(model, reference) < 1e-9
    with torch.no_grad():
        base.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    assert trained_shift_kl(model, reference) > 1e-3
    assert model.training


def test_answer_loss_counts_answers_only(reference: Reference) -> None:
    losses = []
    for index, prompt in enumerate(PROMPTS):
        log_probabilities = reference.logits(index).log_softmax(-1)
        losses += [-float(log_probabilities[position - 1, prompt[position]]) for position in range(20, 40)]
    assert answer_loss(reference) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_stored_logits_are_deleted(base_dir: Path, adapter_dir: Path, tmp_path: Path) -> None:
    with reference_outputs(base_dir, adapter_dir, PROMPTS[:1], max_new_tokens=1, storage_dir=tmp_path):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_problems_are_told_before_the_work(
    base_dir: Path, adapter_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match="no held-out prompts"):
        reference_outputs(base_dir, adapter_dir, [])
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json"):
        reference_outputs(base_dir, tmp_path, PROMPTS)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(verify.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match="verification's logits need"):
        reference_outputs(base_dir, adapter_dir, PROMPTS, storage_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_json_has_the_fields_of_the_contract(exported_dir: Path, reference: Reference, tokenizer: Any) -> None:
    found = verify_safetensors(exported_dir, reference, tokenizer=tokenizer)
    content = json.loads(json.dumps(verification_to_json({"safetensors": found}), allow_nan=False))["safetensors"]
    assert content["passed"] is True
    assert {
        "max_abs_logit_difference",
        "kl_mean",
        "kl_p99",
        "top1_agreement",
        "greedy_match",
        "tokenizer_match",
        "template_match",
    } <= set(content)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["stories260k", "tinystories-656k", "babyllama-1m"])
def test_real_models_pass_with_a_random_adapter(name: str, dtype: str, shared_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = shared_dir / "models" / name
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.save_pretrained(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype)).save_pretrained(tmp_path / "base")
    adapter = random_adapter(tmp_path / "base", tmp_path / "adapter", lora_alpha=16)
    text = "Once upon a time there was a little girl named Lily. She loved to play outside with her big red ball. " * 16
    ids = tokenizer(text)["input_ids"]
    prompts = [ids[start : start + 60] for start in range(0, 140, 10)]
    assert all(len(prompt) == 60 for prompt in prompts)
    files = write_safetensors(
        plan_merge(tmp_path / "base", adapter), tmp_path / "out", tokenizer=tokenizer, card="", max_shard_bytes=400_000
    )
    with reference_outputs(tmp_path / "base", adapter, prompts, starts=[30] * len(prompts)) as outputs:
        found = verify_safetensors(files.path, outputs, tokenizer=tokenizer)
    assert found.passed, found.reason


@pytest.mark.slow
def test_nf4_round_trip_is_merged_and_verified(shared_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from finetune.model.quantize import round_trip_nf4

    base = shared_dir / "models" / "stories260k"
    tokenizer = AutoTokenizer.from_pretrained(base)
    adapter = random_adapter(base, tmp_path / "adapter")
    plan = plan_merge(base, adapter, round_trip=RoundTrip(function=round_trip_nf4))
    write_safetensors(plan, tmp_path / "out", tokenizer=tokenizer, card="")
    prompts = [tokenizer("Once upon a time there was a big dog. He liked to run in the park.")["input_ids"]]
    with reference_outputs(base, adapter, prompts, round_trip=round_trip_nf4) as outputs:
        assert verify_safetensors(tmp_path / "out", outputs, tokenizer=tokenizer).passed
    with reference_outputs(base, adapter, prompts) as outputs:
        assert verify_safetensors(tmp_path / "out", outputs, tokenizer=tokenizer).kl_mean > 1e-4
