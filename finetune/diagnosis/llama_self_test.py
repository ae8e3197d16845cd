"""Self-test of the extra `gguf`, started by `doctor` in a process of its own: prints one line, exits 1 on a problem."""

import sys

import numpy as np

from finetune.errors import FinetuneError, one_line
from finetune.export.gguf.quantize import check_types, dequantize_rows, quantize_rows, self_test_block
from finetune.model.llama_worker import Refused, check_library

TYPE_NAME = "Q4_K"
LARGEST_ERROR = 0.1
"""Relative to the values (root mean square); 0.04 was measured."""


def main() -> int:
    """Quantise known values with llama.cpp's code, expand them with gguf's, and load the runtime."""
    try:
        check_types([TYPE_NAME], with_importance=True)
        rows_NW, _ = self_test_block()
        expanded_NW = dequantize_rows(quantize_rows(rows_NW, TYPE_NAME), TYPE_NAME)
        check_library()
    except (FinetuneError, Refused, OSError, ImportError) as problem:
        print(one_line(problem))  # noqa: T201
        return 1
    relative = float(np.linalg.norm(expanded_NW - rows_NW) / np.linalg.norm(rows_NW))
    print(f"quantises to known bytes, {TYPE_NAME} and back changes values by {relative:.3f}")  # noqa: T201
    return 0 if relative < LARGEST_ERROR else 1


if __name__ == "__main__":
    sys.exit(main())
