"""Writes base + adapter as a folder of safetensors that plain transformers loads; called by the export job.

The folder is written beside its place, flushed to disk and renamed, so that it is there whole or not at all. Weights
go from the base's files straight into the new ones, a block of rows at a time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from finetune.errors import ExportError
from finetune.export.companions import write_companions
from finetune.export.merge import MergePlan, TensorPlan, check_values
from finetune.export.merged_rows import MergedRows, rounded
from finetune.export.placing import ExportedFile, ExportFiles, check_disk, placed
from finetune.export.stream import Block, hashed_file, in_order
from finetune.export.tensor_files import Scratch, chunk_ranges, raw_chunk, row_ranges
from finetune.progress import track

MAX_SHARD_BYTES = 5_000_000_000
"""Largest weights file, unless a single tensor is larger."""


def manifest_content(exports: Mapping[str, ExportFiles]) -> dict[str, dict[str, dict[str, int | str]]]:
    """Return what `export/manifest.json` holds: format name -> file name -> bytes and sha256."""
    return {
        name: {file.name: {"bytes": file.num_bytes, "sha256": file.sha256} for file in export.files}
        for name, export in exports.items()
    }


def write_safetensors(
    plan: MergePlan,
    target_dir: Path,
    *,
    tokenizer: Any | None,
    card: str,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    generation: Mapping[str, object] | None = None,
    progress: str | None = None,
) -> ExportFiles:
    """Write the merged model; an export already there is replaced once the new one is complete.

    `tokenizer` is saved with the chat template that it carries (None copies the base's files), `card` becomes
    README.md, `generation` changes entries of generation_config.json, such as the tokens that end an answer.
    `progress` labels a progress bar; None shows none.

    Raises:
        ExportError: the adapter holds NaN, or a merged value does not fit the base's number type.
        ResourceError: the disk is too small, or became full.
    """
    check_values(plan)
    check_disk(plan.num_bytes, target_dir)
    with placed(target_dir) as staged:
        staged.mkdir()
        hashes = _write_weights(plan, staged, max_shard_bytes, progress)
        write_companions(plan, staged, tokenizer=tokenizer, card=card, generation=generation or {})
        files = tuple(_describe(path, staged, hashes) for path in sorted(staged.rglob("*")) if path.is_file())
    return ExportFiles(path=target_dir, files=files)


def _shards(plan: MergePlan, max_shard_bytes: int) -> list[list[TensorPlan]]:
    """Fill shards in the base's order; wider number types come first in a shard, so that all tensors are aligned."""
    shards: list[list[TensorPlan]] = [[]]
    filled = 0
    for tensor in plan.tensors:
        if shards[-1] and filled + tensor.num_bytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.num_bytes
    return [sorted(shard, key=lambda tensor: -_item_bytes(tensor)) for shard in shards]


def _item_bytes(tensor: TensorPlan) -> float:
    count = 1
    for size in tensor.shape:
        count *= size
    return tensor.num_bytes / max(1, count)


def _write_weights(plan: MergePlan, folder: Path, max_shard_bytes: int, progress: str | None) -> dict[str, str]:
    """Write all shards and, for several, their index; return the sha256 of each shard by file name."""
    shards = _shards(plan, max_shard_bytes)
    names = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    )
    hashes = {
        name: _write_shard(plan, shard, folder / name, progress) for name, shard in zip(names, shards, strict=True)
    }
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": plan.num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return hashes


def _write_shard(plan: MergePlan, shard: list[TensorPlan], path: Path, progress: str | None) -> str:
    expected = sum(tensor.num_bytes for tensor in shard)
    written = 0
    with hashed_file(path) as file:
        file.write(_header(shard))
        scratch = Scratch()
        blocks = in_order(task for tensor in shard for task in _tasks(plan, tensor, scratch))
        for block in track(blocks, progress and f"{progress}: {path.name}", total=expected, unit="bytes", size=len):
            file.write(block)
            written += len(block)
        if written != expected:
            raise ExportError(f"{path}: {written} bytes of weights were written, not {expected}")
    return file.sha256


def _header(shard: list[TensorPlan]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in shard:
        end = position + tensor.num_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _tasks(plan: MergePlan, tensor: TensorPlan, scratch: Scratch) -> Iterator[Callable[[], Block]]:
    """Yield what computes each block of a tensor."""
    if tensor.is_copy:
        yield from (partial(raw_chunk, tensor.source, start, stop) for start, stop in chunk_ranges(tensor.source))
        return
    rows = MergedRows(tensor, plan.round_trip)
    for start, stop in row_ranges(tensor.source):
        yield partial(_rounded_bytes, rows, tensor, start, stop, scratch)


def _rounded_bytes(rows: MergedRows, tensor: TensorPlan, start: int, stop: int, scratch: Scratch) -> Block:
    precise = rows.read(start, stop, scratch=scratch)
    result = rounded(precise, tensor)
    if result.dtype == precise.dtype:
        result = result.clone()  # the block is still to be written when this thread reads the next rows
    return result.contiguous().view(torch.uint8).numpy().data.cast("B")


def _describe(path: Path, folder: Path, hashes: Mapping[str, str]) -> ExportedFile:
    name = path.relative_to(folder).as_posix()
    sha256 = hashes.get(name)
    if sha256 is None:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ExportedFile(name=name, num_bytes=path.stat().st_size, sha256=sha256)
