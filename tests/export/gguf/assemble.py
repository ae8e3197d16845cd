"""What a GgufTensor means, in numpy: the reference that the tests hold the writer and the entries against."""

from collections.abc import Callable

import numpy as np

from finetune.export.gguf.tensors import GgufTensor


def assemble(tensor: GgufTensor, read: Callable[[str], np.ndarray]) -> np.ndarray:
    """Build the float32 values of one tensor of the file; `read` returns a whole checkpoint tensor by name."""
    if tensor.values is not None:
        return np.array(tensor.values, dtype=np.float32).reshape(tensor.shape)
    pieces = []
    for rows in tensor.rows:
        source = read(rows.source).astype(np.float32)
        matrix = source.reshape(-1, source.shape[-1] if source.ndim > 1 else 1)
        pieces.append(matrix[rows.start : rows.stop])
    result = np.concatenate(pieces)
    if tensor.interleave:
        half = tensor.interleave // 2
        heads = result.reshape(-1, 2, half, result.shape[-1])
        result = np.stack([heads[:, 0], heads[:, 1]], axis=2)
    return result.reshape(tensor.shape) + np.float32(tensor.plus)
