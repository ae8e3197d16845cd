"""The written file holds the merged weights, whatever the adapter's variant, and llama.cpp says what PEFT says."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

from finetune.errors import ExportError, ResourceError
from finetune.export import placing
from finetune.export.companions import exported_config
from finetune.export.gguf.build import FileLayout, ModelFacts, lay_out
from finetune.export.gguf.readback import damaged_tensors
from finetune.export.gguf.write import interleaved, write_gguf
from finetune.export.merge import MergePlan, RoundTrip, plan_merge
from finetune.export.placing import ExportFiles
from finetune.model.llama_cpp import LlamaCpp

VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora_patterns": {"use_rslora": True, "rank_pattern": {"q_proj": 9}, "alpha_pattern": {"k_proj": 32}},
    "dora": {"use_dora": True},
    "saved_norm": {"modules_to_save": ["norm"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "saved_embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


def layout_of(plan: MergePlan, format: str, *, with_importance: bool = False) -> FileLayout:
    from transformers import AutoTokenizer

    return lay_out(
        format,
        exported_config(plan, json.loads((plan.base_dir / "config.json").read_text())),
        {tensor.name: tensor.shape for tensor in plan.tensors},
        tokenizer=AutoTokenizer.from_pretrained(plan.base_dir),
        tokenizer_dir=plan.base_dir,
        facts=ModelFacts(name="tiny", license="MIT", base_model="someone/tiny", tags=("finetune",)),
        with_importance=with_importance,
    )


def write(plan: MergePlan, target: Path, format: str, **options: Any) -> tuple[ExportFiles, FileLayout]:
    layout = layout_of(plan, format, with_importance="importance" in options)
    files = write_gguf(plan, target, tensors=layout.tensors, types=layout.types, metadata=layout.metadata, **options)
    return files, layout


@pytest.fixture(scope="session")
def plan(tiny_model_dir: Path, make_adapter: Callable[..., Path]) -> MergePlan:
    return plan_merge(tiny_model_dir, make_adapter(tiny_model_dir))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_cpp_computes_what_base_and_adapter_compute(
    variant: str,
    tiny_model_dir: Path,
    make_adapter: Callable[..., Path],
    peft_logits: Callable[..., torch.Tensor],
    tmp_path: Path,
) -> None:
    adapter = make_adapter(tiny_model_dir, **VARIANTS[variant])
    plan = plan_merge(tiny_model_dir, adapter)
    files, layout = write(plan, tmp_path / "tiny.gguf", "F32")
    assert damaged_tensors(files.path, plan, layout.tensors, layout.types) == []
    assert ("output.weight" in layout.types) == plan.untied
    ids = torch.randint(0, 60, (1, 40), generator=torch.Generator().manual_seed(0))
    expected = peft_logits(tiny_model_dir, adapter, ids)[0].numpy()
    with LlamaCpp(files.path) as runtime:
        actual = runtime.logits(ids[0].tolist())
    assert np.abs(actual - expected).max() < 0.01 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "format", ["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K"]
)
def test_every_format_loads_and_its_tensors_are_the_merged_ones(
    format: str, make_tiny_model: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_tiny_model(hidden_size=256, intermediate_size=512)
    plan = plan_merge(base, make_adapter(base))
    files, layout = write(plan, tmp_path / "tiny.gguf", format)
    assert damaged_tensors(files.path, plan, layout.tensors, layout.types) == []
    assert files.path.stat().st_size == files.num_bytes < layout.num_bytes + 200_000
    with LlamaCpp(files.path) as runtime:
        assert np.isfinite(runtime.logits(list(range(20)))).all()
    largest = {tensor.name: layout.types[tensor.name] for tensor in layout.tensors if len(tensor.shape) > 1}
    assert set(largest.values()) != {"F32"}


@pytest.mark.slow
def test_an_importance_matrix_moves_the_error_to_where_it_does_not_matter(
    make_tiny_model: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    from gguf import GGUFReader
    from gguf.quants import dequantize

    base = make_tiny_model(hidden_size=256, intermediate_size=512)
    plan = plan_merge(base, make_adapter(base))
    name = "model.layers.0.mlp.up_proj.weight"
    weight = np.where(np.arange(256) % 8 == 0, 100.0, 0.01).astype(np.float32)
    exact = torch.cat(list(merged(plan, name))).numpy()
    errors = []
    for number, options in enumerate(({}, {"importance": {name: weight}})):
        files, _ = write(plan, tmp_path / f"{number}.gguf", "Q2_K", **options)
        found = next(t for t in GGUFReader(files.path).tensors if t.name == "blk.0.ffn_up.weight")
        errors.append(float((((dequantize(found.data, found.tensor_type) - exact) ** 2) * weight).sum()))
    assert errors[1] < 0.7 * errors[0]


def merged(plan: MergePlan, name: str) -> Any:
    from finetune.export.merged_rows import merged_blocks

    return merged_blocks(next(tensor for tensor in plan.tensors if tensor.name == name))


def test_the_dequantised_base_is_what_is_written(plan: MergePlan, tmp_path: Path) -> None:
    coarse = plan_merge(
        plan.base_dir, plan.adapter.folder, round_trip=RoundTrip(function=lambda weight: (weight * 4).round() / 4)
    )
    files, layout = write(coarse, tmp_path / "coarse.gguf", "F32")
    assert damaged_tensors(files.path, coarse, layout.tensors, layout.types) == []
    assert damaged_tensors(files.path, plan, layout.tensors, layout.types) != []


@pytest.mark.slow
def test_reading_back_names_the_tensor_that_is_not_the_merged_one(plan: MergePlan, tmp_path: Path) -> None:
    from gguf import GGUFReader

    files, layout = write(plan, tmp_path / "tiny.gguf", "Q8_0")
    for name in ("blk.1.attn_k.weight", "blk.0.ffn_norm.weight", "token_embd.weight"):
        original = files.path.read_bytes()
        reader = GGUFReader(files.path, "r+")
        next(tensor for tensor in reader.tensors if tensor.name == name).data[:] = 0
        reader.data.flush()
        del reader
        problems = damaged_tensors(files.path, plan, layout.tensors, layout.types)
        assert len(problems) == 1 and name in problems[0]
        files.path.write_bytes(original)


def test_swapped_rows_of_a_head_are_found(plan: MergePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("finetune.export.gguf.write.interleaved", lambda rows, head_rows: rows)
        files, layout = write(plan, tmp_path / "tiny.gguf", "F16")
    assert "attn_q" in " ".join(damaged_tensors(files.path, plan, layout.tensors, layout.types))


def test_rows_of_a_head_alternate() -> None:
    rows = torch.arange(16).reshape(8, 2)
    assert interleaved(rows, 4)[:, 0].tolist() == [0, 4, 2, 6, 8, 12, 10, 14]
    assert interleaved(torch.arange(8), 8).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


@pytest.mark.bar("R15")
def test_a_failed_export_leaves_what_stood_there(
    plan: MergePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = write(plan, tmp_path / "tiny.gguf", "F16")
    before = files.path.read_bytes()

    def fail(*_: Any) -> None:
        raise ExportError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("finetune.export.gguf.write.quantize_rows", fail)
        with pytest.raises(ExportError, match="broken"):
            write(plan, files.path, "Q8_0")
    with monkeypatch.context() as patch:
        patch.setattr(placing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10})())
        with pytest.raises(ResourceError, match="the disk has"):
            write(plan, files.path, "Q8_0")
    assert files.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from test_write import write
from finetune.export.merge import plan_merge
plan = plan_merge(Path(sys.argv[1]), Path(sys.argv[2]))
print("ready", flush=True)
write(plan, Path(sys.argv[3]), "Q4_K_M")
print("done", flush=True)
"""


@pytest.mark.bar("R15")
@pytest.mark.slow
def test_a_killed_export_never_looks_finished(
    make_tiny_model: Callable[..., Path], make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    base = make_tiny_model(hidden_size=512, intermediate_size=2048, num_hidden_layers=6)
    plan = plan_merge(base, make_adapter(base))
    whole, _ = write(plan, tmp_path / "whole.gguf", "Q4_K_M")
    target = tmp_path / "out" / "tiny.gguf"
    command = [
        sys.executable,
        "-c",
        KILLED,
        str(base),
        str(plan.adapter.folder),
        str(target),
        str(Path(__file__).parent),
    ]
    killed = 0
    for number in range(20):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.05 * number)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if target.exists():
            assert target.read_bytes() == whole.path.read_bytes()
            target.unlink()
    assert killed >= 10
    files, _ = write(plan, target, "Q4_K_M")
    assert files.files[0].sha256 == whole.files[0].sha256
    assert [path.name for path in target.parent.iterdir()] == ["tiny.gguf"]
