"""Computes rows of merged tensors: base + scaling x (up @ down), a block of rows at a time. Called by the writers.

Memory: a block of rows (BLOCK_BYTES) and one module's low-rank pair; a round trip through NF4 holds one whole linear
weight, because its scales depend on all of them.

Shapes: O outputs, I inputs, R rank; a weight is OI, or IO where it is stored transposed (embedding, Conv1D).
"""

import threading
from collections.abc import Iterator

import torch

from finetune.errors import ExportError
from finetune.export.merge import RoundTrip, TensorPlan
from finetune.export.tensor_files import BLOCK_BYTES, TORCH_DTYPES, Scratch, read_rows, row_ranges


class MergedRows:
    """One merged tensor, of which any rows can be asked for, from several threads at once.

    DoRA (Liu et al. 2024, eq. 5): W' = m * V / |V| with V = W + scaling x (up @ down), |V| per output.
    """

    def __init__(self, tensor: TensorPlan, round_trip: RoundTrip | None = None, block_bytes: int = BLOCK_BYTES) -> None:
        self._tensor = tensor
        self._round_trip = round_trip if tensor.round_trip else None
        self._block_bytes = block_bytes
        self._precision = torch.float64 if tensor.dtype == "F64" else torch.float32
        self._lock = threading.Lock()
        self._is_open = False
        self._whole: torch.Tensor | None = None
        self._left: torch.Tensor | None = None
        self._right: torch.Tensor | None = None
        self._factor_O: torch.Tensor | None = None

    def stored(self, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) of a tensor that is copied, in the stored type."""
        return read_rows(self._tensor.source, start, stop)

    def read(self, start: int, stop: int, *, scratch: Scratch | None = None) -> torch.Tensor:
        """Rows [start, stop) in float32 (float64 where the base is stored so), not rounded.

        With `scratch` they may lie in memory that the next such call on the same thread overwrites.

        Raises:
            ExportError: a file is truncated.
        """
        if not self._is_open:
            with self._lock:
                if not self._is_open:
                    self._open()
                    self._is_open = True
        rows = self._updated(start, stop, scratch)
        pair = self._tensor.pair
        if pair is None or pair.magnitude is None:
            return rows
        assert self._factor_O is not None
        if self._tensor.transposed:
            return rows * self._factor_O
        return rows * (self._factor_O[start:stop] / torch.linalg.vector_norm(rows, dim=1))[:, None]

    def _open(self) -> None:
        tensor, pair = self._tensor, self._tensor.pair
        if self._round_trip is not None:
            self._whole = self._round_trip.function(read_rows(tensor.source)).to(self._precision)
        if pair is None:
            return
        down_RI, up_OR = (factor.to(self._precision) for factor in pair.factors())
        self._left, self._right = (down_RI.T, up_OR.T) if tensor.transposed else (up_OR, down_RI)
        if pair.magnitude is None:
            return
        self._factor_O = read_rows(pair.magnitude).to(self._precision)
        if tensor.transposed:
            squares_O = torch.zeros(pair.num_outputs, dtype=torch.float64)
            for start, stop in row_ranges(tensor.source, self._block_bytes):
                squares_O += self._updated(start, stop).to(torch.float64).square().sum(dim=0)
            self._factor_O = self._factor_O / squares_O.sqrt().to(self._precision)

    def _updated(self, start: int, stop: int, scratch: Scratch | None = None) -> torch.Tensor:
        rows = self._read(start, stop, scratch) if self._whole is None else self._whole[start:stop]
        pair = self._tensor.pair
        if pair is None:
            return rows
        assert self._left is not None and self._right is not None
        target = rows if self._whole is None else torch.empty_like(rows)
        return torch.addmm(rows, self._left[start:stop], self._right, alpha=pair.scaling, out=target)

    def _read(self, start: int, stop: int, scratch: Scratch | None) -> torch.Tensor:
        stored = read_rows(self._tensor.source, start, stop, scratch=scratch)
        if scratch is None or stored.dtype == self._precision:
            return stored.to(self._precision)
        return scratch.empty("precise", tuple(stored.shape), self._precision).copy_(stored)


def merged_blocks(
    tensor: TensorPlan, round_trip: RoundTrip | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[torch.Tensor]:
    """Yield one output tensor as blocks of whole rows, in the output's type, rounded once.

    Raises:
        ExportError: a file is truncated, or a merged value does not fit the output's type.
    """
    rows = MergedRows(tensor, round_trip, block_bytes)
    for start, stop in row_ranges(tensor.source, block_bytes):
        yield rows.stored(start, stop) if tensor.is_copy else rounded(rows.read(start, stop), tensor)


def rounded(rows: torch.Tensor, tensor: TensorPlan) -> torch.Tensor:
    """Round merged rows to the output's type.

    Raises:
        ExportError: a value does not fit it.
    """
    result = rows.to(TORCH_DTYPES[tensor.dtype])
    extremes = torch.stack(torch.aminmax(rows)) if rows.numel() else rows  # rounding keeps order, and NaN stays NaN
    if not torch.isfinite(extremes.to(result.dtype)).all():
        raise ExportError(f"{tensor.name}: a merged value is not finite in {tensor.dtype}; the export is stopped")
    return result
