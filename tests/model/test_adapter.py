"""Adapters: targets that exist, every method trains, PiSSA is saved as plain LoRA, old adapters go on."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune.config import AdapterConfig, AdapterMethod
from finetune.errors import ModelError
from finetune.model.adapter import (
    adapter_state,
    add_adapter,
    check_adapter_folder,
    convert_pissa,
    load_adapter,
    save_adapter,
)

IDS = torch.arange(10, 42)[None]


def base(folder: Path) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.requires_grad_(False)


def train_a_little(model: Any) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("method", list(AdapterMethod))
def test_every_method_starts_at_the_base_and_can_be_loaded_by_peft_alone(
    method: AdapterMethod, tiny_model_dir: Path, tmp_path: Path
) -> None:
    expected = logits(base(tiny_model_dir).eval())
    model = add_adapter(base(tiny_model_dir), AdapterConfig(method=method, rank=4, alpha=4), seed=0)
    torch.testing.assert_close(logits(model.eval()), expected, rtol=1e-3, atol=1e-4)
    initial = adapter_state(model)
    train_a_little(model)
    assert (logits(model) - expected).abs().max() > 1e-3
    save_adapter(model, tmp_path)
    if method is AdapterMethod.pissa:
        convert_pissa(tmp_path, initial)
    again = PeftModel.from_pretrained(base(tiny_model_dir), tmp_path).eval()
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-3, atol=1e-4)


def test_the_seed_decides_the_start(tiny_model_dir: Path) -> None:
    one, same, other = (adapter_state(add_adapter(base(tiny_model_dir), AdapterConfig(), seed=s)) for s in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("names", [["q_porj"], ["q_proj", "nothing"]])
def test_targets_that_match_nothing_list_what_the_model_has(names: list[str], tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError) as caught:
        add_adapter(base(tiny_model_dir), AdapterConfig(target_modules=names), seed=0)
    assert names[-1] in str(caught.value) and "gate_proj" in str(caught.value)
    assert "lm_head" not in str(caught.value)


def test_only_the_named_targets_are_adapted(tiny_model_dir: Path) -> None:
    model = add_adapter(base(tiny_model_dir), AdapterConfig(target_modules=["q_proj", "v_proj"]), seed=0)
    assert {name.split(".")[-4] for name in adapter_state(model)} == {"q_proj", "v_proj"}


def test_an_adapter_goes_on_where_it_ended(tiny_model_dir: Path, tmp_path: Path) -> None:
    first = add_adapter(base(tiny_model_dir), AdapterConfig(rank=4), seed=0)
    train_a_little(first)
    save_adapter(first, tmp_path)
    second = add_adapter(base(tiny_model_dir), AdapterConfig(path=str(tmp_path), rank=99), seed=0)
    torch.testing.assert_close(logits(second.eval()), logits(first))
    assert all(tensor.dtype == torch.float32 for tensor in adapter_state(second).values())


def test_an_adapter_of_another_base_is_refused(make_tiny_model: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    save_adapter(add_adapter(base(tiny_model_dir), AdapterConfig(rank=4), seed=0), tmp_path)
    other = base(make_tiny_model(hidden_size=32, num_attention_heads=2))
    with pytest.raises(ModelError, match="does not fit"):
        load_adapter(other, tmp_path, trainable=False)


def test_an_adapter_with_nan_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    model = add_adapter(base(tiny_model_dir), AdapterConfig(rank=4), seed=0)
    next(parameter for parameter in model.parameters() if parameter.requires_grad).data.fill_(float("nan"))
    save_adapter(model, tmp_path)
    with pytest.raises(ModelError, match="no numbers"):
        load_adapter(base(tiny_model_dir), tmp_path, trainable=False)


@pytest.mark.parametrize("what", ["missing folder", "no config", "pickle only", "damaged", "not lora"])
def test_folders_that_are_no_adapter(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    if what != "missing folder":
        folder.mkdir()
    if what in ("pickle only", "damaged", "not lora"):
        (folder / "adapter_config.json").write_text("{" if what == "damaged" else '{"peft_type": "PREFIX_TUNING"}')
        weights = "adapter_model.bin" if what == "pickle only" else "adapter_model.safetensors"
        (folder / weights).write_bytes(b"")
    with pytest.raises(ModelError, match=r"adapter\.path"):
        check_adapter_folder(folder)
