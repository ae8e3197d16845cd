"""Writes base + adapter as a folder of safetensors that plain transformers loads; called by the export job.

The folder is written beside its place, flushed to disk and renamed, so that it is there whole or not at all. Weights
go from the base's files straight into the new ones, a block of rows at a time.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from finetune.errors import ExportError, ResourceError
from finetune.export.companions import write_companions
from finetune.export.merge import MergePlan, TensorPlan, check_values, merged_blocks
from finetune.export.tensor_files import raw_chunks
from finetune.log import megabytes

MAX_SHARD_BYTES = 5_000_000_000
"""Largest weights file, unless a single tensor is larger."""

_MARGIN_BYTES = 64_000_000
"""Room kept for tokenizer, headers and the file system's own use."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedFile:
    """One file of an export."""

    name: str
    """Path below the export's folder, with forward slashes."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportFiles:
    """A finished export folder."""

    folder: Path
    files: tuple[ExportedFile, ...]

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(file.num_bytes for file in self.files)


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
    on_bytes: Callable[[int], None] | None = None,
) -> ExportFiles:
    """Write the merged model; an export already there is replaced once the new one is complete.

    `tokenizer` is saved with the chat template that it carries (None copies the base's files), `card` becomes
    README.md, `generation` changes entries of generation_config.json, such as the tokens that end an answer.
    `on_bytes` is told of every block of weights written, for a progress bar; `plan.num_bytes` is the total.

    Raises:
        ExportError: the adapter holds NaN, or a merged value does not fit the base's number type.
        ResourceError: the disk is too small, or became full.
    """
    check_values(plan)
    staged = _stage(target_dir)
    _check_disk(plan, target_dir)
    try:
        staged.mkdir()
        hashes = _write_weights(plan, staged, max_shard_bytes, on_bytes or (lambda num_bytes: None))
        write_companions(plan, staged, tokenizer=tokenizer, card=card, generation=generation or {})
        files = tuple(_describe(path, staged, hashes) for path in sorted(staged.rglob("*")) if path.is_file())
        _publish(staged, target_dir)
    except BaseException as error:
        shutil.rmtree(staged, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(f"{target_dir}: the disk became full; free some space and export again") from error
        raise
    return ExportFiles(folder=target_dir, files=files)


def _stage(target_dir: Path) -> Path:
    """Clear what a killed export left, put back what it had moved away, and return the folder to write in."""
    staged, previous = (target_dir.with_name(f".{target_dir.name}.{state}") for state in ("partial", "previous"))
    target_dir.parent.mkdir(parents=True, exist_ok=True)
    if previous.exists() and not target_dir.exists():
        previous.rename(target_dir)
    for leftover in (staged, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    return staged


def _check_disk(plan: MergePlan, target_dir: Path) -> None:
    needed, free = plan.num_bytes + _MARGIN_BYTES, shutil.disk_usage(target_dir.parent).free
    if free < needed:
        raise ResourceError(
            f"{target_dir}: the merged model needs {megabytes(needed)}, the disk has {megabytes(free)} free; "
            "free some space, or set output_dir=… to another disk"
        )


def _publish(staged: Path, target_dir: Path) -> None:
    """Put the finished folder in place; only two renames lie between the old export and the new one."""
    for path in staged.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(staged)
    previous = target_dir.with_name(f".{target_dir.name}.previous")
    if target_dir.exists():
        target_dir.rename(previous)
    staged.rename(target_dir)
    _sync_folder(target_dir.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot flush a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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


def _write_weights(
    plan: MergePlan, folder: Path, max_shard_bytes: int, on_bytes: Callable[[int], None]
) -> dict[str, str]:
    """Write all shards and, for several, their index; return the sha256 of each shard by file name."""
    shards = _shards(plan, max_shard_bytes)
    names = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    )
    hashes = {
        name: _write_shard(plan, shard, folder / name, on_bytes) for name, shard in zip(names, shards, strict=True)
    }
    if len(shards) > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": plan.num_bytes}, "weight_map": dict(sorted(weight_map.items()))}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return hashes


def _write_shard(plan: MergePlan, shard: list[TensorPlan], path: Path, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        _put(_header(shard), file, digest)
        for tensor in shard:
            written = 0
            for chunk in _bytes_of(plan, tensor):
                _put(chunk, file, digest)
                written += len(chunk)
                on_bytes(len(chunk))
            if written != tensor.num_bytes:
                raise ExportError(f"{path}: {written} bytes of {tensor.name} were written, not {tensor.num_bytes}")
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _put(chunk: bytes | bytearray, file: BinaryIO, digest: "hashlib._Hash") -> None:
    file.write(chunk)
    digest.update(chunk)


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


def _bytes_of(plan: MergePlan, tensor: TensorPlan) -> Iterator[bytes | bytearray]:
    if tensor.is_copy:
        yield from raw_chunks(tensor.source)
        return
    for block in merged_blocks(tensor, plan.round_trip):
        yield block.contiguous().view(torch.uint8).numpy().tobytes()


def _describe(path: Path, folder: Path, hashes: Mapping[str, str]) -> ExportedFile:
    name = path.relative_to(folder).as_posix()
    sha256 = hashes.get(name)
    if sha256 is None:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return ExportedFile(name=name, num_bytes=path.stat().st_size, sha256=sha256)
