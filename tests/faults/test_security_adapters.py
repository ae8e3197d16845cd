"""Bar S6: an adapter made elsewhere is checked: base, options, shapes, values, names; mutants are refused in words."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import ModelError
from finetune.model.adapter_folder import check_adapter_folder

NAN, INFINITY = float("nan"), float("inf")
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"
Change = Callable[[Path], object]


def options(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        config = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))

    return change


def tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    def changed(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = folder / "adapter_model.safetensors"
        found = load_file(path)
        change(found)
        save_file(found, path, metadata={"format": "pt"})

    return changed


def fill(value: float) -> Change:
    return tensors(lambda found: found[f"{Q_PROJ}.lora_A.weight"].view(-1)[3:4].fill_(value))


def put(name: str, *shape: int, dtype: str = "float32") -> Change:
    def change(found: dict[str, Any]) -> None:
        import torch

        found[name] = torch.zeros(shape, dtype=getattr(torch, dtype))

    return tensors(change)


def cut(name: str, slices: Any) -> Change:
    return tensors(lambda found: found.update({name: found[name][slices].contiguous()}))


def rename(folder: Path) -> None:
    tensors(lambda found: found.update({f"x.{name}": found.pop(name) for name in list(found)}))(folder)


def both(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


CONFIGS: dict[str, tuple[Change, str]] = {
    "no configuration": (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json"),
    "no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "damaged|cannot be read"),
    "a list": (lambda folder: (folder / "adapter_config.json").write_text("[]"), "damaged|no object"),
    "deep": (lambda folder: (folder / "adapter_config.json").write_text("[" * 9999), "damaged|cannot be read"),
    "another kind": (options(peft_type="PREFIX_TUNING"), "PREFIX_TUNING"),
    "no kind": (options(peft_type=None), "None"),
    "unknown variant": (options(use_brandnew_lora=True), "use_brandnew_lora"),
    "layer replication": (options(layer_replication=[[0, 2]]), "layer_replication"),
    "megatron": (options(megatron_config={"a": 1}, megatron_core="evil"), "megatron_config"),
    "runtime": (options(runtime_config={"ephemeral_gpu_offload": True}), "runtime_config"),
    "pissa": (options(init_lora_weights="pissa"), "does not fit the base's own weights"),
    "bias": (options(bias="most"), "bias"),
    "rank too high": (options(r=8), "rank 8"),
    "rank too low": (options(r=2), "rank 2"),
    "rank huge": (options(r=10**9), "r is 1000000000|rank 1000000000"),
    "rank zero": (options(r=0), "r is 0|rank or alpha"),
    "rank a text": (options(r="4"), "r is '4'|rank or alpha"),
    "rank pattern": (options(rank_pattern={"q_proj": 16}), "rank 16"),
    "rank pattern without end": (options(rank_pattern={"(a+)+$": 4}), r"rank_pattern\["),
    "rank pattern no pattern": (options(rank_pattern={"(": 4}), r"rank_pattern\["),
    "alpha not finite": (options(lora_alpha=NAN), "alpha"),
    "alpha negative": (options(lora_alpha=-1), "alpha"),
    "targets without end": (options(target_modules=r"(\w+\.)*(a|b)+(x+x+)+y"), "target_modules"),
    "targets no names": (options(target_modules=[{"a": 1}]), "target_modules"),
    "base no text": (options(base_model_name_or_path={"a": 1}), "base_model_name_or_path"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "half the weights": (
        lambda folder: (folder / "adapter_model.safetensors").write_bytes(
            (folder / "adapter_model.safetensors").read_bytes()[:5000]
        ),
        "cut short|truncated",
    ),
    "rank lie in the file": (cut(f"{Q_PROJ}.lora_A.weight", slice(0, 2)), "rank 4"),
    "no tensors": (tensors(dict.clear), "nothing was trained"),
    "whole numbers": (put(f"{Q_PROJ}.lora_A.weight", 4, 64, dtype="int64"), "I64"),
    "foreign names": (rename, "not one of a PEFT adapter"),
}
WEIGHTS: dict[str, tuple[Change, str]] = {
    "not a number": (fill(NAN), "no numbers"),
    "infinity": (fill(INFINITY), "no numbers"),
    "minus infinity": (fill(-INFINITY), "no numbers"),
    "another width": (cut(f"{Q_PROJ}.lora_A.weight", (slice(None), slice(0, 32))), "does not fit"),
    "another height": (cut(f"{Q_PROJ}.lora_B.weight", slice(0, 32)), "does not fit"),
    "one matrix missing": (tensors(lambda found: found.pop(f"{Q_PROJ}.lora_B.weight")), "lacks"),
    "a layer too many": (
        both(
            put("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", 4, 64),
            put("base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight", 64, 4),
        ),
        "has no place for",
    ),
    "a weight of the base": (put("base_model.model.model.norm.weight", 64), "has no place for"),
    "a wrapped weight of the base": (put(f"{Q_PROJ}.base_layer.weight", 64, 64), "has no place for"),
    "an unknown tensor": (put("base_model.model.evil.weight", 3), "has no place for"),
    "magnitudes without DoRA": (put(f"{Q_PROJ}.lora_magnitude_vector", 64), "has no place for"),
    "DoRA without magnitudes": (options(use_dora=True), "lacks"),
    "targets that are not there": (options(target_modules=["nothing"]), "does not fit"),
    "fewer targets": (options(target_modules=["q_proj"]), "has no place for"),
}


@pytest.fixture
def adapter(plain_adapter_dir: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain_adapter_dir, tmp_path / "adapter")


@pytest.mark.bar("S6")
@pytest.mark.parametrize("name", CONFIGS)
def test_a_mutant_is_refused_before_torch_sees_it(name: str, adapter: Path) -> None:
    change, message = CONFIGS[name]
    check_adapter_folder(adapter)
    change(adapter)
    with pytest.raises(ModelError, match=message) as caught:
        check_adapter_folder(adapter)
    assert str(caught.value).startswith("adapter.path: ") and len(str(caught.value)) < 600


@pytest.mark.bar("S6")
@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_mutant_is_refused_on_its_base(name: str, adapter: Path, tiny_model_dir: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from finetune.model.adapter import load_adapter

    change, message = WEIGHTS[name]
    change(adapter)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with pytest.raises(ModelError, match=message) as caught:
        load_adapter(base, adapter, trainable=False)
    assert str(caught.value).startswith("adapter.path: ")


@pytest.mark.bar("S6")
def test_a_base_of_any_name_is_never_looked_for(adapter: Path, tmp_path: Path) -> None:
    for base in ("../../../etc", "/etc/passwd", "evil/model", "~", "file:///etc"):
        options(base_model_name_or_path=base)(adapter)
        assert check_adapter_folder(adapter)["base_model_name_or_path"] == base


@pytest.mark.bar("S6")
@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "export"])
@pytest.mark.parametrize("name", ["not a number", "fewer targets", "rank huge"])
def test_the_command_line_refuses_in_one_line(command: str, name: str, adapter: Path, runs: Any) -> None:
    change, message = {**CONFIGS, **WEIGHTS}[name]
    change(adapter)
    out = f"mutant-{command}-{name.replace(' ', '-')}"
    ended = runs.call(command, out, f"adapter.path={adapter}", "export.formats=[safetensors]")
    last = ended.said.splitlines()[-1]
    assert ended.code in (1, 2) and re.search(f"{message}|NaN", last) and last.startswith("finetune: ")
    assert "Traceback" not in ended.said and not list((runs.path / out).rglob("*.safetensors"))


@pytest.mark.bar("S6")
@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "rank_pattern": {"q_proj": 8}},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"bias": "all"},
        {"target_modules": r".*\.(q_proj|v_proj)"},
    ],
    ids=["plain", "dora", "rslora", "saved head", "embeddings", "biases", "pattern"],
)
def test_sound_adapters_pass(settings: dict[str, Any], make_tiny_model: Any, make_adapter: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from finetune.model.adapter import load_adapter

    base_dir = make_tiny_model(tie_word_embeddings=False, attention_bias=True)
    folder = make_adapter(base_dir, **settings)
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    assert load_adapter(base, folder, trainable=True).get_nb_trainable_parameters()[0] > 0
