"""Reads safetensors files by their headers, a block of rows at a time. Used by the merge and the writers."""

import json
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from finetune.errors import ExportError
from finetune.headers import HeaderProblem
from finetune.headers.safetensors import read_safetensors_header

TORCH_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Types that can be read as tensors; any other can still be copied byte for byte."""

MERGEABLE = ("F64", "F32", "F16", "BF16")
"""Types that an update can be added to."""

BLOCK_BYTES = 4 * 2**20
"""Size of a block of rows in float32; a handful of them is all the memory that a merge needs. It fits into a cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """Where one tensor's bytes lie."""

    name: str
    dtype: str
    """The format's name of the number type, such as BF16."""
    shape: tuple[int, ...]
    path: Path
    offset: int
    """Position of the first byte in the file."""
    num_bytes: int

    @property
    def num_rows(self) -> int:
        """Entries of the first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1


def read_header(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of one file in the order of their bytes, reading its header only.

    Raises:
        ExportError: the file is absent, truncated or no safetensors file.
    """
    try:
        entries = read_safetensors_header(path)
    except HeaderProblem as problem:
        raise ExportError(f"{path}: {problem}; fetch or write it again") from None
    except OSError as error:
        raise ExportError(f"{path}: its header cannot be read ({error}); fetch or write the file again") from error
    return {
        entry.name: StoredTensor(
            name=entry.name,
            dtype=entry.dtype,
            shape=entry.shape,
            path=path,
            offset=entry.start,
            num_bytes=entry.stop - entry.start,
        )
        for entry in entries
    }


def read_checkpoint(folder: Path) -> dict[str, StoredTensor]:
    """List all tensors of a model folder (model.safetensors, or shards with an index), headers only.

    Raises:
        ExportError: there are no safetensors weights, or a shard is absent, damaged or contradicts the index.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_header(single)
    if not index.is_file():
        raise ExportError(
            f"{folder}: no model.safetensors and no model.safetensors.index.json; only safetensors are read"
        )
    try:
        weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        file_names = list(dict.fromkeys(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExportError(f"{index}: cannot be read ({error}); fetch the model again") from error
    tensors: dict[str, StoredTensor] = {}
    for file_name in file_names:
        if Path(file_name).name != file_name:
            raise ExportError(f"{index}: names a file outside its folder: {file_name!r}")
        tensors |= read_header(folder / file_name)
    absent = sorted(set(weight_map) - set(tensors))
    if absent:
        raise ExportError(f"{index}: names tensors that no shard holds: {', '.join(absent[:5])}; fetch the model again")
    return tensors


class Scratch(threading.local):
    """Memory of each thread that is used for block after block: fresh memory costs the system more than the sums do."""

    def empty(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor whose values are left over from the last one for the same purpose."""
        num_bytes = math.prod(shape) * dtype.itemsize
        held = self.__dict__.get(purpose)
        if held is None or held.numel() < num_bytes:
            held = self.__dict__[purpose] = torch.empty(num_bytes, dtype=torch.uint8)
        return held[:num_bytes].view(dtype).reshape(shape)


def checkpoint_bytes(folder: Path) -> int:
    """Size of all tensors of a model folder.

    Raises:
        ExportError: as `read_checkpoint`.
    """
    return sum(tensor.num_bytes for tensor in read_checkpoint(folder).values())


def rows_per_block(tensor: StoredTensor, block_bytes: int = BLOCK_BYTES) -> int:
    """How many rows of a tensor fill a block in float32; at least one."""
    return max(1, block_bytes // max(1, math.prod(tensor.shape[1:]) * 4))


def row_ranges(tensor: StoredTensor, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
    """Cut a tensor's rows into blocks [start, stop)."""
    step = rows_per_block(tensor, block_bytes)
    for start in range(0, tensor.num_rows, step):
        yield start, min(start + step, tensor.num_rows)


def read_rows(
    tensor: StoredTensor, start: int = 0, stop: int | None = None, *, scratch: Scratch | None = None
) -> torch.Tensor:
    """Read rows [start, stop) in the stored type; all of them by default.

    With `scratch` they lie in memory that the next such call on the same thread overwrites.

    Raises:
        ExportError: the type cannot be computed with, or the file ends early.
    """
    dtype = TORCH_DTYPES.get(tensor.dtype)
    if dtype is None:
        raise ExportError(f"{tensor.path}: tensor {tensor.name} has type {tensor.dtype}, which cannot be computed with")
    stop = tensor.num_rows if stop is None else stop
    shape = (stop - start, *tensor.shape[1:]) if tensor.shape else ()
    row_bytes = tensor.num_bytes // max(1, tensor.num_rows)
    rows = torch.empty(shape, dtype=dtype) if scratch is None else scratch.empty("stored", shape, dtype)
    if rows.numel():
        _fill(rows.reshape(-1).view(torch.uint8).numpy().data, tensor, start * row_bytes)
    return rows


def chunk_ranges(tensor: StoredTensor, chunk_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, int]]:
    """Cut a tensor's bytes into pieces [start, stop)."""
    for start in range(0, tensor.num_bytes, chunk_bytes):
        yield start, min(start + chunk_bytes, tensor.num_bytes)


def raw_chunk(tensor: StoredTensor, start: int, stop: int) -> memoryview:
    """Read bytes [start, stop) of a tensor as they stand in the file.

    Raises:
        ExportError: the file ends early.
    """
    chunk = np.empty(stop - start, np.uint8).data
    _fill(chunk, tensor, start)
    return chunk


def _fill(buffer: memoryview, tensor: StoredTensor, start: int) -> None:
    """Read a tensor's bytes from `start` on until the buffer is full."""
    with tensor.path.open("rb") as file:
        file.seek(tensor.offset + start)
        if file.readinto(buffer) != len(buffer):
            raise ExportError(f"{tensor.path}: truncated while tensor {tensor.name} was read")
