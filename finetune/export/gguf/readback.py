"""Reads a written GGUF file back and compares its tensors with base + adapter; called by the export job.

The runtime's comparison says whether the file as a whole answers as the model does. This one names the tensor: rows of
every tensor are expanded and must lie within what their type's rounding explains. Of a large tensor some rows are
taken, evenly; a fault that a type's rounding would hide is no fault.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from finetune.errors import ExportError, one_line
from finetune.export.gguf.quantize import dequantize_rows
from finetune.export.gguf.tensors import GgufTensor
from finetune.export.gguf.write import interleaved, open_rows
from finetune.export.merge import MergePlan
from finetune.export.merged_rows import MergedRows
from finetune.headers.gguf import check_gguf_header

MOST_VALUES = 1 << 20
"""Values of a tensor that are compared."""

RELATIVE_ERRORS: Mapping[str, float] = {
    "F32": 1e-6, "F16": 1e-3, "BF16": 6e-3, "Q8_0": 0.02, "Q6_K": 0.06, "Q5_K": 0.11, "Q5_0": 0.12, "Q5_1": 0.12,
    "Q4_K": 0.2, "Q4_0": 0.25, "Q4_1": 0.25, "IQ4_NL": 0.25, "IQ4_XS": 0.25, "Q3_K": 0.4, "Q2_K": 0.7,
}  # fmt: skip
"""Largest root-mean-square error of a tensor over that of its values: three times what Gaussian weights give."""

Numbers = np.ndarray[Any, Any]


def damaged_tensors(path: Path, plan: MergePlan, tensors: Sequence[GgufTensor], types: Mapping[str, str]) -> list[str]:
    """Name each tensor that is absent, of another type or shape, or not the merged one; empty if all is well.

    Raises:
        ExportError: the file is no GGUF file.
    """
    from gguf import GGUFReader

    try:
        check_gguf_header(path)
        written = {str(tensor.name): tensor for tensor in GGUFReader(path).tensors}
    except Exception as error:
        raise ExportError(f"{path}: cannot be read back: {one_line(error)}") from error
    problems = [f"tensor {name} is not one of the model's" for name in sorted(set(written) - {t.name for t in tensors})]
    sources = {tensor.name: tensor for tensor in plan.tensors}
    for tensor in tensors:
        found, type_name = written.get(tensor.name), types[tensor.name]
        if found is None:
            problems.append(f"tensor {tensor.name} is absent")
        elif found.tensor_type.name != type_name or tuple(reversed(found.shape.tolist())) != tensor.shape:
            problems.append(f"tensor {tensor.name} has another type or shape")
        else:
            opened = {rows.source: open_rows(sources[rows.source], plan) for rows in tensor.rows}
            error = _relative_error(tensor, found.data, type_name, opened)
            if not error <= RELATIVE_ERRORS[type_name]:
                problems.append(
                    f"tensor {tensor.name} is off by {error:.2g} of its size, more than {type_name} explains"
                )
    return problems


def _relative_error(tensor: GgufTensor, data: Numbers, type_name: str, opened: Mapping[str, MergedRows]) -> float:
    squares = np.zeros(2)
    width = tensor.shape[-1]
    stored = data.reshape(-1, data.shape[-1])
    for at, expected in _samples(tensor, opened):
        rows = stored[at : at + len(expected)] if len(tensor.shape) > 1 else stored
        actual = dequantize_rows(np.ascontiguousarray(rows).view(np.uint8), type_name).reshape(-1, width)
        squares += ((actual - expected).astype(np.float64) ** 2).sum(), (expected.astype(np.float64) ** 2).sum()
    return float(np.sqrt(squares[0] / squares[1])) if squares[1] else float(squares[0] > 0)


def _samples(tensor: GgufTensor, opened: Mapping[str, MergedRows]) -> Iterator[tuple[int, Numbers]]:
    """Yield rows of the tensor as they should be, each time with the place of the first in the file."""
    width = tensor.shape[-1]
    if tensor.values is not None:
        yield 0, np.asarray(tensor.values, dtype=np.float32).reshape(-1, width)
        return
    if len(tensor.shape) == 1:
        whole = torch.cat([_expected(tensor, opened[rows.source], rows.start, rows.stop) for rows in tensor.rows])
        yield 0, whole.reshape(1, -1).numpy()
        return
    unit = tensor.interleave or 1
    num_units = sum(len(rows) for rows in tensor.rows) // unit
    step = max(1, num_units * unit * width // MOST_VALUES)
    at = 0
    for rows in tensor.rows:
        for start in range(rows.start, rows.stop, unit):
            if (at // unit) % step == 0:
                yield at, _expected(tensor, opened[rows.source], start, start + unit).numpy()
            at += unit


def _expected(tensor: GgufTensor, source: MergedRows, start: int, stop: int) -> torch.Tensor:
    values = source.read(start, stop).to(torch.float32)
    if tensor.interleave:
        values = interleaved(values, tensor.interleave)
    return values + tensor.plus
