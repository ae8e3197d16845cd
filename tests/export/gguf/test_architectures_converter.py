"""llama.cpp's convert_hf_to_gguf.py as the oracle: same tensors, same values, same metadata, for every architecture.

Its sources are those that FINETUNE_LLAMA_CPP names, or they are fetched (llama_cpp_sources.py).
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finetune.export.gguf import architectures

from .assemble import assemble
from .configs import CONFIGS, save_checkpoint
from .llama_cpp_sources import find_sources
from .random_models import MODELS, save_random_model

pytestmark = pytest.mark.exhaustive
gguf = pytest.importorskip("gguf")

PUBLISHED = {f"published_{name}": config for name, config in CONFIGS.items() if name != "falcon_7b"}
"""The publishers' spelling. The converter fails on Falcon 7B's: transformers tells it 71 key heads, not 1."""

ALL = [*MODELS, *PUBLISHED]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all models, each with the converter's file or its complaint."""
    sources = find_sources()
    if isinstance(sources, str):
        pytest.skip(sources)
    root = tmp_path_factory.mktemp("converted")
    for name in MODELS:
        save_random_model(name, root / name)
    for name, config in PUBLISHED.items():
        save_checkpoint(config, root / name)
    for name in ALL:
        num_tokens = 48 if name in PUBLISHED else 96
        vocabulary = {f"t{number}": number for number in range(num_tokens)}
        (root / name / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": []}))
    driver = Path(__file__).with_name("convert.py")
    command = [sys.executable, str(driver), str(sources), *(str(root / name) for name in ALL)]
    subprocess.run(command, check=True, capture_output=True, timeout=400)
    return root


def reader_of(folder: Path) -> Callable[[str], np.ndarray]:
    """Return a function that reads one tensor of a checkpoint."""
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors").__getitem__


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """List a checkpoint's names and shapes."""
    from safetensors.numpy import load_file

    return {name: value.shape for name, value in load_file(folder / "model.safetensors").items()}


def theirs(folder: Path):
    """Open the converter's file."""
    failed = folder / "failed.txt"
    assert not failed.exists(), failed.read_text()
    return gguf.GGUFReader(folder / "converted.gguf")


@pytest.mark.parametrize("name", ALL)
def test_same_tensors_as_llama_cpps_converter(converted: Path, name: str) -> None:
    folder = converted / name
    config = json.loads((folder / "config.json").read_text())
    expected = {tensor.name: tensor for tensor in theirs(folder).tensors}
    ours = architectures.plan_tensors(config, shapes_of(folder))
    assert sorted(tensor.name for tensor in ours) == sorted(expected)
    read = reader_of(folder)
    for tensor in ours:
        reference = expected[tensor.name]
        assert tensor.shape == tuple(reversed(reference.shape.tolist())), tensor.name
        values = np.array(reference.data, dtype=np.float32).reshape(tensor.shape)
        np.testing.assert_array_equal(assemble(tensor, read), values, err_msg=tensor.name)


@pytest.mark.parametrize("name", ALL)
def test_same_metadata_as_llama_cpps_converter(converted: Path, name: str) -> None:
    folder = converted / name
    config = json.loads((folder / "config.json").read_text())
    fields = {
        key: field
        for key, field in theirs(folder).fields.items()
        if not key.startswith(("GGUF.", "general.", "tokenizer."))
    }
    ours = architectures.metadata(config)
    assert sorted(ours) == sorted(fields)
    for key, value in ours.items():
        kinds = {bool: "BOOL", float: "FLOAT32", int: "UINT32", str: "STRING"}
        assert fields[key].types[-1].name == kinds[type(value)], key
        written = fields[key].contents()
        assert written == (float(np.float32(value)) if isinstance(value, float) else value), key


@pytest.mark.parametrize("name", ["mixtral", "qwen3moe"])
def test_experts_that_are_stacked_in_the_checkpoint_give_the_same_file(
    converted: Path, name: str, tmp_path: Path
) -> None:
    save_random_model(name, tmp_path, save_original_format=False)
    config = json.loads((tmp_path / "config.json").read_text())
    assert any(name.endswith("experts.gate_up_proj") for name in shapes_of(tmp_path))
    expected = {tensor.name: tensor for tensor in theirs(converted / name).tensors}
    ours = architectures.plan_tensors(config, shapes_of(tmp_path))
    assert {tensor.name for tensor in ours} == set(expected)
    for tensor in ours:
        values = np.array(expected[tensor.name].data).reshape(tensor.shape)
        np.testing.assert_array_equal(assemble(tensor, reader_of(tmp_path)), values, err_msg=tensor.name)
