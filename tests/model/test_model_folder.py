"""Folders that hold a model that can be trained, and all the others."""

import json
import shutil
from pathlib import Path

import pytest

from finetune.errors import ModelError
from finetune.model.shape import INDEX_NAME, context_of, read_model_config, shape_of

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 128,
}


def safetensors_bytes(payload: int = 4) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [payload // 4], "data_offsets": [0, payload]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(payload)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(safetensors_bytes())
    return tmp_path


def test_a_whole_folder_is_read(folder: Path) -> None:
    assert shape_of(read_model_config(folder)).hidden_size == 64


def test_a_model_saved_by_transformers_is_read(tiny_model_dir: Path) -> None:
    found = read_model_config(tiny_model_dir)
    shape = shape_of(found)
    assert (shape.num_layers, shape.hidden_size, shape.num_kv_heads, shape.tied_embeddings) == (2, 64, 2, True)
    assert context_of(found) == 512


def test_shards_are_read_when_all_are_there(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(ModelError, match=r"1 of 2 weight files are missing: model-00002-of-00002\.safetensors"):
        read_model_config(folder)
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors_bytes())
    read_model_config(folder)


def test_missing_folder_and_missing_config(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere.*there is no such folder"):
        read_model_config(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [("adapter_config.json", r"adapter\.path"), ("tiny-Q4_K_M.gguf", "GGUF files, which cannot be trained")],
)
def test_folders_of_other_things_are_recognised(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        read_model_config(tmp_path)


@pytest.mark.parametrize("content", [b"{not json", b"[1]", b"\xff\xfe"])
def test_an_unreadable_config_is_named(content: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"config\.json: (cannot be read as JSON|must be a JSON object)"):
        read_model_config(folder)


def test_pickles_are_refused_with_the_way_to_convert_them(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*can run any code.*save_pretrained"):
        read_model_config(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors but neither"):
        read_model_config(folder)
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights"):
        read_model_config(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (safetensors_bytes(400)[:-1], "cut short"),
        (safetensors_bytes()[:20], "no whole safetensors file"),
        (b"", "no whole safetensors file"),
        ((2).to_bytes(8, "little") + b"[]", "no whole safetensors file"),
    ],
)
def test_damaged_weights_are_found_before_they_are_loaded(content: bytes, message: str, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_model_config(folder)


def test_a_quantised_base_is_refused(folder: Path) -> None:
    config = {**CONFIG, "quantization_config": {"quant_method": "gptq"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="already quantised"):
        read_model_config(folder)


def test_a_copied_model_stays_readable(tiny_model_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_model_dir, tmp_path / "copy of the model")
    assert shape_of(read_model_config(copy)) == shape_of(read_model_config(tiny_model_dir))
