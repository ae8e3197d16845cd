"""What a tensor of a GGUF file is made of. Written by architectures.py, read by write.py; knows neither torch nor gguf.

Shapes are in numpy's order, rows first; GGUF itself stores them reversed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows [start, stop) of a checkpoint tensor, all of its dimensions but the last laid end to end.

    A matrix's rows are its outputs, a vector's its elements. Stacked experts (experts, outputs, inputs) have experts x
    outputs rows: expert e begins at row e x outputs, and a row is not an entry of the first dimension.
    """

    source: str
    """Name in the checkpoint."""
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTensor:
    """One tensor of the file: rows of checkpoint tensors one after the other, or values of its own."""

    name: str
    """Name in the GGUF file, such as blk.0.attn_q.weight."""
    shape: tuple[int, ...]
    """Rows first; stacked experts are (experts, outputs, inputs)."""
    rows: tuple[Rows, ...] = ()
    """In the order of the file. All have the same row width, `shape[-1]` (vectors: 1)."""
    values: Sequence[float] | None = None
    """The values themselves, where they come from the configuration (rope factors)."""
    interleave: int = 0
    """Rows of an attention head whose two halves alternate in llama.cpp (rope of neighbouring pairs): row i of the head
    goes to 2i, row i + interleave/2 to 2i + 1. 0: rows stay in order."""
    plus: float = 0.0
    """Added to every value: Gemma's norms are stored as weight - 1."""
    always_f32: bool = False
    """Whether llama.cpp wants 32 bits whatever the format: vectors, router weights."""

    @property
    def num_values(self) -> int:
        """Number of values."""
        return math.prod(self.shape)
