"""Writes one GGUF file straight from base and adapter: header first, then every tensor, a block of rows at a time.

Each value is read once, added to in float32, rounded or quantised once, and written once; nothing but the result is
written. Format: github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.errors import ExportError
from finetune.export.gguf.architectures import Signed
from finetune.export.gguf.quantize import quantize_rows, row_bytes
from finetune.export.gguf.tensors import GgufTensor, Rows
from finetune.export.merge import MergePlan, TensorPlan, check_values
from finetune.export.merged_rows import MergedRows
from finetune.export.placing import ExportedFile, ExportFiles, check_disk, placed
from finetune.export.stream import Block, hashed_file, in_order
from finetune.export.tensor_files import BLOCK_BYTES, Scratch
from finetune.progress import track

ALIGNMENT = 32
"""Tensors begin at multiples of so many bytes (GGUF's default)."""

Values = Mapping[str, Any]


def write_gguf(
    plan: MergePlan,
    target: Path,
    *,
    tensors: Sequence[GgufTensor],
    types: Mapping[str, str],
    metadata: Values,
    importance: Mapping[str, np.ndarray[Any, Any]] | None = None,
    progress: str | None = None,
) -> ExportFiles:
    """Write the merged model as one file; a file already there is replaced once the new one is complete.

    `types` names the type of every tensor (mix.py), `metadata` all keys of the file (architectures.py, vocabulary.py),
    `importance` the mean squares of each input column by checkpoint name (importance.py). `progress` labels a
    progress bar; None shows none.

    Raises:
        ExportError: the adapter holds NaN, a merged value is no number, or a file is truncated.
        ResourceError: the disk is too small, or became full.
    """
    check_values(plan)
    sizes = {tensor.name: num_bytes(tensor, types[tensor.name]) for tensor in tensors}
    check_disk(sum(sizes.values()), target)
    with placed(target) as staged:
        with hashed_file(staged) as file:
            file.write(header(metadata, tensors, types, sizes))
            sources = _Sources(plan, importance or {})
            tasks = (
                task for tensor in tensors for task in _tasks(tensor, types[tensor.name], sizes[tensor.name], sources)
            )
            for block in track(in_order(tasks), progress, total=sum(sizes.values()), unit="bytes", size=len):
                file.write(block)
        total = staged.stat().st_size
    return ExportFiles(path=target, files=(ExportedFile(name=target.name, num_bytes=total, sha256=file.sha256),))


def num_bytes(tensor: GgufTensor, type_name: str) -> int:
    """Size of a tensor in the file, without padding."""
    return tensor.num_values // tensor.shape[-1] * row_bytes(type_name, tensor.shape[-1])


def header(
    metadata: Values, tensors: Sequence[GgufTensor], types: Mapping[str, str], sizes: Mapping[str, int]
) -> bytes:
    """Return all that comes before the tensors' bytes, padded to where they begin."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.gguf_writer import WriterState

    content: Any = io.BytesIO()
    writer = GGUFWriter(None, str(metadata["general.architecture"]))
    for key, value in metadata.items():
        if key != "general.architecture":  # the writer has put it first
            _add_value(writer, key, value)
    for tensor in tensors:
        raw_type = GGMLQuantizationType[types[tensor.name]]
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), sizes[tensor.name], raw_type)
    writer.fout, writer.state = [content], WriterState.EMPTY  # in the place of a file that it would open
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return content.getvalue() + bytes(-content.tell() % ALIGNMENT)


def _add_value(writer: Any, key: str, value: Any) -> None:
    """Add a value in the type that llama.cpp reads: booleans, 32-bit numbers, texts, and arrays of these."""
    from gguf import GGUFValueType

    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, Signed):
        writer.add_int32(key, int(value))
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, Sequence):
        if len(value) == 0:
            return
        writer.add_key_value(key, list(value), GGUFValueType.ARRAY, GGUFValueType.get_type(value[0]))
    else:
        raise TypeError(f"{key} has a value of type {type(value).__name__}")


class _Sources:
    """The merged tensors by their names in the checkpoint, opened when they are first needed."""

    def __init__(self, plan: MergePlan, importance: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._plan = plan
        self._tensors: dict[str, TensorPlan] = {tensor.name: tensor for tensor in plan.tensors}
        self.importance = importance
        self.scratch = Scratch()

    def open(self, name: str) -> MergedRows:
        return open_rows(self._tensors[name], self._plan)


def open_rows(tensor: TensorPlan, plan: MergePlan) -> MergedRows:
    """Open a merged tensor, stacked matrices as one tall one."""
    source = tensor.source
    if len(source.shape) > 2:
        flat = (math.prod(source.shape[:-1]), source.shape[-1])
        tensor = replace(tensor, source=replace(source, shape=flat))
    return MergedRows(tensor, plan.round_trip)


def _tasks(tensor: GgufTensor, type_name: str, size: int, sources: _Sources) -> Iterator[Callable[[], Block]]:
    """Yield what computes each block of a tensor, and the padding after it."""
    if tensor.values is not None:
        values = np.asarray(tensor.values, dtype=np.float32).reshape(-1, tensor.shape[-1])
        yield lambda: _quantized(values, type_name, None)
    opened: dict[str, MergedRows] = {}
    for rows in tensor.rows:
        if rows.source not in opened:
            opened = {rows.source: sources.open(rows.source)}
        importance = sources.importance.get(rows.source)
        for start, stop in _ranges(tensor, rows):
            yield partial(_block, opened[rows.source], tensor, type_name, importance, start, stop, sources.scratch)
    if size % ALIGNMENT:
        yield lambda: bytes(-size % ALIGNMENT)


def _ranges(tensor: GgufTensor, rows: Rows) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks; whole heads stay together. A vector is one block."""
    if len(tensor.shape) == 1:
        yield rows.start, rows.stop
        return
    unit = tensor.interleave or 1
    step = max(1, BLOCK_BYTES // (4 * tensor.shape[-1] * unit)) * unit
    for start in range(rows.start, rows.stop, step):
        yield start, min(start + step, rows.stop)


def _block(
    source: MergedRows,
    tensor: GgufTensor,
    type_name: str,
    importance: np.ndarray[Any, Any] | None,
    start: int,
    stop: int,
    scratch: Scratch,
) -> Block:
    values = source.read(start, stop, scratch=scratch).to(torch.float32)
    if tensor.interleave:
        values = interleaved(values, tensor.interleave)
    if tensor.plus:
        values = values + tensor.plus
    if len(tensor.shape) == 1:
        values = values.reshape(1, -1)
    try:
        if type_name == "F32":
            values = values.clone()  # the block is still to be written when this thread reads the next rows
        return _quantized(values.contiguous().numpy(), type_name, importance)
    except ExportError as error:
        raise ExportError(f"{tensor.name}: {error}") from error


def _quantized(values: np.ndarray[Any, Any], type_name: str, importance: np.ndarray[Any, Any] | None) -> Block:
    return quantize_rows(values, type_name, importance).data.cast("B")


def interleaved(rows: torch.Tensor, head_rows: int) -> torch.Tensor:
    """Alternate the two halves of each head's rows, as llama.cpp's rope of neighbouring pairs wants them."""
    heads = rows.reshape(-1, 2, head_rows // 2, *rows.shape[1:])
    return heads.transpose(1, 2).reshape(rows.shape)
