"""The written folder: what it holds, how it is sharded, and that it is there whole or not at all."""

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from finetune import placing
from finetune.errors import ExportError, ResourceError
from finetune.export import merged_rows, stream
from finetune.export.merge import MergePlan, RoundTrip, plan_merge
from finetune.export.safetensors import manifest_content, write_safetensors
from finetune.export.stream import Block
from finetune.export.tensor_files import StoredTensor, raw_chunk, read_checkpoint, read_rows


@pytest.fixture(scope="module")
def plan(tiny_model_dir: Path, make_adapter: Callable[..., Path]) -> MergePlan:
    """An adapter on the attention of the tiny model."""
    return plan_merge(tiny_model_dir, make_adapter(tiny_model_dir, target_modules=["q_proj", "o_proj"]))


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    """The tiny model's tokenizer, as training leaves it: with truncation and padding switched on."""
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tiny_model_dir)
    loaded("a b c", truncation=True, max_length=2, padding="max_length")
    return loaded


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stored_bytes(folder: Path) -> dict[str, bytes]:
    """Each tensor's bytes as they stand in the files."""
    return {name: bytes(raw_chunk(tensor, 0, tensor.num_bytes)) for name, tensor in read_checkpoint(folder).items()}


def test_untouched_tensors_are_copied_byte_for_byte(plan: MergePlan, tmp_path: Path) -> None:
    write_safetensors(plan, tmp_path / "out", tokenizer=None, card="")
    before, after = stored_bytes(plan.base_dir), stored_bytes(tmp_path / "out")
    assert set(before) == set(after)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"model.layers.{n}.self_attn.{m}_proj.weight" for n in (0, 1) for m in "qo"}


def test_copies_keep_numbers_that_are_not_finite_and_types_that_torch_lacks(
    tiny_model_dir: Path, plan: MergePlan, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    stored = load_file(base / "model.safetensors")
    stored["model.norm.weight"][3] = float("nan")
    stored["scale"] = torch.ones((3, 5), dtype=torch.float8_e4m3fn)
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    write_safetensors(plan_merge(base, plan.adapter.folder), tmp_path / "out", tokenizer=None, card="")
    before, after = stored_bytes(base), stored_bytes(tmp_path / "out")
    assert all(before[name] == after[name] for name in ("model.norm.weight", "scale"))


def test_one_file_without_index(plan: MergePlan, tokenizer: Any, tmp_path: Path) -> None:
    files = write_safetensors(plan, tmp_path / "out", tokenizer=tokenizer, card="# Card\n")
    assert {path.name for path in files.path.iterdir()} == {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
    }
    assert (files.path / "README.md").read_text() == "# Card\n"
    with safe_open(files.path / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_shards_with_an_index_hold_the_same_model(plan: MergePlan, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write_safetensors(plan, tmp_path / "one", tokenizer=None, card="")
    files = write_safetensors(plan, tmp_path / "many", tokenizer=None, card="", max_shard_bytes=60_000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    assert len(shards) > 2
    assert index["metadata"]["total_size"] == plan.num_bytes
    sizes = {file.name: file.num_bytes for file in files.files}
    assert all(sizes[name] < 60_000 + 4_000 for name in shards)
    assert stored_bytes(tmp_path / "one") == stored_bytes(tmp_path / "many")
    one, many = (AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("one", "many"))
    assert all(torch.equal(weight, many[name]) for name, weight in one.items())


def test_sharded_base_of_mixed_types(tmp_path: Path, tiny_model_dir: Path, plan: MergePlan, tokenizer: Any) -> None:
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    stored = load_file(base / "model.safetensors")
    stored["model.layers.0.input_layernorm.weight"] = torch.rand(64)
    stored["an_odd_one"] = torch.ones(3, dtype=torch.float16)
    (base / "model.safetensors").unlink()
    halves = {"a.safetensors": sorted(stored)[::2], "b.safetensors": sorted(stored)[1::2]}
    for name, keys in halves.items():
        save_file({key: stored[key] for key in keys}, base / name)
    weight_map = {key: name for name, keys in halves.items() for key in keys}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    files = write_safetensors(plan_merge(base, plan.adapter.folder), tmp_path / "out", tokenizer=tokenizer, card="")
    written, tensors = load_file(files.path / "model.safetensors"), read_checkpoint(files.path)
    assert {name: weight.dtype for name, weight in written.items()} == {n: w.dtype for n, w in stored.items()}
    name = "model.layers.0.input_layernorm.weight"
    assert torch.equal(written[name], stored[name])
    assert all(tensor.offset % (tensor.num_bytes // math.prod(tensor.shape)) == 0 for tensor in tensors.values())
    (base / "b.safetensors").unlink()
    with pytest.raises(ExportError, match=r"b\.safetensors"):
        plan_merge(base, plan.adapter.folder)


def test_manifest_names_every_file_with_its_hash(plan: MergePlan, tokenizer: Any, tmp_path: Path) -> None:
    files = write_safetensors(plan, tmp_path / "out", tokenizer=tokenizer, card="", max_shard_bytes=60_000)
    manifest = manifest_content({"safetensors": files})["safetensors"]
    assert manifest == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents(tmp_path / "out").items()
    }


def test_config_describes_the_merged_weights(tmp_path: Path, tiny_model_dir: Path, plan: MergePlan) -> None:
    base = Path(shutil.copytree(tiny_model_dir, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    wrong = {"quantization_config": {"load_in_4bit": True}, "dtype": "float32", "_name_or_path": "/home/me/secret"}
    (base / "config.json").write_text(json.dumps(config | wrong))
    (base / "LICENSE.txt").write_text("terms")
    write_safetensors(
        plan_merge(base, plan.adapter.folder),
        tmp_path / "out",
        tokenizer=None,
        card="",
        generation={"eos_token_id": [2, 0]},
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == config | {"dtype": "float16"}
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [2, 0]
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "terms"


def test_tokenizer_keeps_its_template_and_forgets_truncation(plan: MergePlan, tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_safetensors(plan, tmp_path / "out", tokenizer=tokenizer, card="")
    content = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert content["truncation"] is None
    assert content["padding"] is None
    assert tokenizer.backend_tokenizer.truncation is not None
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == tokenizer.chat_template


@pytest.mark.bar("R15")
def test_an_earlier_export_is_replaced_when_the_new_one_is_complete(
    plan: MergePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    write_safetensors(plan, target, tokenizer=None, card="old")
    (target / "left-over.txt").write_text("")

    def fail(staged: Path, target_dir: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(placing, "_publish", fail)
        with pytest.raises(KeyboardInterrupt):
            write_safetensors(plan, target, tokenizer=None, card="new")
    assert (target / "README.md").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    write_safetensors(plan, target, tokenizer=None, card="new")
    assert (target / "README.md").read_text() == "new"
    assert not (target / "left-over.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.bar("R15")
def test_a_kill_between_the_two_renames_loses_nothing(plan: MergePlan, tmp_path: Path) -> None:
    write_safetensors(plan, tmp_path / "out", tokenizer=None, card="old")
    (tmp_path / "out").rename(tmp_path / ".out.previous")
    (tmp_path / ".out.partial").mkdir()
    staged = placing.recover(tmp_path / "out")
    assert not staged.exists()
    assert (tmp_path / "out" / "README.md").read_text() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
from finetune import placing
from finetune.export import safetensors as writer
from finetune.export.merge import plan_merge
base, adapter, target = map(Path, sys.argv[1:])
placing._publish = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
writer.write_safetensors(plan_merge(base, adapter), target, tokenizer=None, card="")
"""


@pytest.mark.bar("R15")
@pytest.mark.slow
def test_a_kill_before_the_rename_leaves_nothing_that_looks_finished(plan: MergePlan, tmp_path: Path) -> None:
    target = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, plan.base_dir, plan.adapter.folder, target]
    killed = subprocess.run([str(part) for part in command], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == [".out.partial"]
    write_safetensors(plan, target, tokenizer=None, card="")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_bad_adapter_writes_nothing(tmp_path: Path, tiny_model_dir: Path, make_adapter: Callable[..., Path]) -> None:
    adapter = make_adapter(tiny_model_dir, target_modules=["q_proj"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(ExportError, match="NaN"):
        write_safetensors(plan_merge(tiny_model_dir, adapter), tmp_path / "export" / "out", tokenizer=None, card="")
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_is_seen_before_anything_is_written(
    plan: MergePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=64_100_000)
    monkeypatch.setattr(placing.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ResourceError, match=r"needs 64\.\d MB|needs 64 MB"):
        write_safetensors(plan, tmp_path / "out", tokenizer=None, card="")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.bar("R15")
def test_a_disk_that_becomes_full_leaves_nothing(
    plan: MergePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(stream.HashedFile, "write", full)
    with pytest.raises(ResourceError, match="the disk became full"):
        write_safetensors(plan, tmp_path / "out", tokenizer=None, card="")
    assert list(tmp_path.iterdir()) == []


MEASURED = """
import resource, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from finetune.export.merge import plan_merge
from finetune.export.safetensors import write_safetensors
torch.addmm(torch.zeros(8, 8), torch.zeros(8, 2), torch.zeros(2, 8))
plan = plan_merge(Path(sys.argv[1]), Path(sys.argv[2]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_safetensors(plan, Path(sys.argv[3]), tokenizer=None, card="")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_no_more_than_a_block_of_the_base_is_read_at_once(
    plan: MergePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def watched(tensor: StoredTensor, start: int = 0, stop: int | None = None, **options: Any) -> torch.Tensor:
        rows = read_rows(tensor, start, stop, **options)
        if tensor.path.parent == plan.base_dir:
            read.append(rows.numel() * 4)
        return rows

    monkeypatch.setattr(merged_rows, "read_rows", watched)
    for tensor in plan.tensors:
        for _ in merged_rows.merged_blocks(tensor, block_bytes=1024):
            pass
    assert max(read) == 1024
    assert len(read) > 100


def test_blocks_that_wait_keep_their_values(plan: MergePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def all_at_once(tasks: Iterable[Callable[[], Block]]) -> list[Block]:
        return [task() for task in tasks]

    wide = plan.as_type("F32")
    expected = {tensor.name: torch.cat(list(merged_rows.merged_blocks(tensor))) for tensor in wide.tensors}
    monkeypatch.setattr("finetune.export.safetensors.in_order", all_at_once)
    write_safetensors(wide, tmp_path / "out", tokenizer=None, card="")
    for name, written in load_file(tmp_path / "out" / "model.safetensors").items():
        assert written.equal(expected[name]), name


@pytest.mark.slow
def test_memory_is_bounded_by_blocks_of_a_tall_tensor(tmp_path: Path) -> None:
    rows, width, rank = 1_000_000, 128, 1
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    (base / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    save_file({"lm_head.weight": torch.zeros(rows, width, dtype=torch.float16)}, base / "model.safetensors")
    (adapter / "adapter_config.json").write_text(f'{{"peft_type": "LORA", "r": {rank}, "lora_alpha": {rank}}}')
    pair = {"lora_A": torch.ones(rank, width), "lora_B": torch.arange(rows).float()[:, None] % 7}
    names = {f"base_model.model.lm_head.{name}.weight": tensor for name, tensor in pair.items()}
    save_file(names, adapter / "adapter_model.safetensors")
    command = [sys.executable, "-c", MEASURED, str(base), str(adapter), str(tmp_path / "out")]
    measured = subprocess.run(command, capture_output=True, check=True, text=True)
    assert int(measured.stdout) < 120, f"{measured.stdout} MB for a tensor of 244 MB (488 MB in float32)"
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as written:
        assert written.get_slice("lm_head.weight")[999_999:][0, 5] == 999_999 % 7


def test_dequantised_export_goes_through_the_round_trip(plan: MergePlan, tmp_path: Path) -> None:
    coarse = plan_merge(plan.base_dir, plan.adapter.folder, round_trip=RoundTrip(function=torch.zeros_like))
    write_safetensors(coarse, tmp_path / "out", tokenizer=None, card="")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert not written["model.layers.0.mlp.up_proj.weight"].any()
    assert written["model.layers.0.self_attn.q_proj.weight"].any()
    assert written["model.embed_tokens.weight"].any()
