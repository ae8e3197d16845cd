"""Turns rows of float32 into the block types of GGUF files. Called by write.py for every block of rows.

K and IQ types come from ggml's own code, which the xllamacpp wheel carries: `ggml_quantize_chunk` is called in its
shared object through ctypes, outside Python's lock, so that threads run side by side. Before its first use the
library must give known bytes for a known block. Where it is absent, gguf's numpy code makes the 32-wide types.

Shapes: N rows, W width (values in a row), B bytes in a row.
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from finetune.errors import ConfigError, ExportError, did_you_mean

INSTALL = "pip install 'finetune[gguf]'"
"""The command that brings both libraries."""


class BlockType(NamedTuple):
    """How a type packs values; the GGUF specification fixes all three numbers."""

    number: int
    """The type's number in ggml and in the file."""
    width: int
    """Values in a block; a row is a whole number of blocks."""
    num_bytes: int
    """Bytes of a block."""


BLOCK_TYPES: Mapping[str, BlockType] = {
    "F32": BlockType(0, 1, 4),
    "F16": BlockType(1, 1, 2),
    "BF16": BlockType(30, 1, 2),
    "Q8_0": BlockType(8, 32, 34),
    "Q6_K": BlockType(14, 256, 210),
    "Q5_K": BlockType(13, 256, 176),
    "Q4_K": BlockType(12, 256, 144),
    "Q3_K": BlockType(11, 256, 110),
    "Q2_K": BlockType(10, 256, 84),
    "Q4_0": BlockType(2, 32, 18),
    "Q4_1": BlockType(3, 32, 20),
    "Q5_0": BlockType(6, 32, 22),
    "Q5_1": BlockType(7, 32, 24),
    "IQ4_NL": BlockType(20, 32, 18),
    "IQ4_XS": BlockType(23, 256, 136),
}
"""Every type that an export can hold."""

PLAIN_TYPES = ("F32", "F16", "BF16")
"""One value after the other; numpy alone can make them."""

NUMPY_TYPES = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
"""Types that the gguf package can make as well, byte for byte, but without an importance matrix."""

_LARGEST = {"F32": float(np.finfo(np.float32).max), "BF16": 3.3895313892515355e38}
"""Largest magnitude that a type takes; 65504 for all others, whose values or scales are float16."""

_IMPORTANCE_FLOOR = 1e-4
"""Smallest importance of a column, as a share of the mean: ggml turns a block whose weights are all zero to nothing."""

_KNOWN_BYTES: Mapping[str, str] = {
    "F16": "e62410ab07b60c9bfca7c39c509a3f18426116af207a2d6264f0101687de5332",
    "BF16": "2e817dcd99c3847d735b3991739c5aff7f4ca4c3443c00fce3a003935b48e01f",
    "Q8_0": "067a233fca9b758f2a813ec6f0bfec33d3211b278e8544df9b747a1bbad079d3",
    "Q6_K": "8be1a74af2499dc287c08c6fd64694d57d8e28fe20dbb611c859cfef5120bf84",
    "Q5_K": "9381d9706d1cdb76e4f2ea7ff7c9871fd784deb576c00a3130455be6ea672b40",
    "Q4_K": "128f6e484deb251037b3ee15fabaf586f43500d8b1e8775f606b21989a34f0d1",
    "Q3_K": "ab387b6fe2a0902e74d179ae2ddecc6c8578222b62176570290a94581e0d544c",
    "Q2_K": "575c99bb102cc30e20c19fceccf156587e0bab752f8c7b5fb31e24f5bd307ada",
    "Q4_0": "07a4e454fb633cb4214d05c94b23705269cd2d2424217efb3c7dc2dd28290727",
    "Q4_1": "2bc750670339d0c16b9c43b027951e74c8e12eadfa9c1e0294b9a392143af3c9",
    "Q5_0": "33aa23bc61e5ae62a135ae23190a9d5eb9428925b20e89e0e098a4057dbdd104",
    "Q5_1": "7d9f1052a87a3a24926bd00f4fa523480423704b72de705bf8d39c856267886b",
    "IQ4_NL": "96e1020b67da2a95ca9d227a7bcbf449afa7858c261ad5d3248a30454fbb5703",
    "IQ4_XS": "c10ef01387ca76d538fd855bfe15245758e079052781d5672b96514eaf5acccd",
}
"""SHA-256 of `self_test_block` without and then with importance, from xllamacpp 2026.10.11549; also from ggml compiled
without optimisation and with fused multiply-add, which other processors use."""


class _QuantizeChunk(Protocol):
    """`ggml_quantize_chunk` of ggml.h: quantises `num_rows` rows of `width` float32 and returns the bytes written."""

    def __call__(
        self, number: int, source: int, target: int, start: int, num_rows: int, width: int, importance: int | None, /
    ) -> int: ...


class _Native(NamedTuple):
    """The quantiser of the shared object, or why there is none."""

    quantize_chunk: _QuantizeChunk | None
    problem: str = ""


def block_width(type_name: str) -> int:
    """Values in a block of a type: a row's width must be a multiple of it.

    Raises:
        ConfigError: there is no such type.
    """
    return _block_type(type_name).width


def row_bytes(type_name: str, width: int) -> int:
    """Bytes of a row of `width` values.

    Raises:
        ConfigError: there is no such type.
        ExportError: the width is no multiple of the type's block width.
    """
    block = _block_type(type_name)
    if width % block.width:
        raise ExportError(f"rows of {width} values do not fit {type_name}, whose blocks hold {block.width}; use F16")
    return width // block.width * block.num_bytes


def check_types(names: Iterable[str], *, with_importance: bool = False) -> None:
    """Refuse types that cannot be made here, before anything costs time.

    Raises:
        ConfigError: the gguf package is absent, a type is unknown, or it needs xllamacpp and that cannot be used.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        _block_type(name)
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"a GGUF file needs the package gguf, which is not installed; {INSTALL}")
    for name in wanted:
        if _needs_native(name, with_importance):
            _native_or_raise(name, with_importance)


def quantize_rows(rows_NW: np.ndarray, type_name: str, importance_W: np.ndarray | None = None) -> np.ndarray:
    """Quantise rows; returns uint8 (N, B). Any number of threads may call it at once.

    `rows_NW` is float32; it is copied first where it is not contiguous, and F32 gives a view of it.
    `importance_W` says how much an error in a column costs (the mean square of what the column is multiplied with);
    plain types and Q8_0 take no notice of it.

    Raises:
        ExportError: a value is no number, infinite or too large for the type, or the shapes do not fit.
        ConfigError: there is no such type, or it cannot be made here.
    """
    rows_NW = np.ascontiguousarray(rows_NW, dtype=np.float32)
    if rows_NW.ndim != 2:
        raise ExportError(f"rows have the shape {rows_NW.shape}; (rows, width) is wanted")
    num_rows, width = rows_NW.shape
    num_bytes = row_bytes(type_name, width)
    if not rows_NW.size:
        return np.empty((num_rows, num_bytes), np.uint8)
    _check_values(rows_NW, type_name)
    if type_name == "F32":
        return rows_NW.view(np.uint8)
    importance_W = None if type_name in PLAIN_TYPES else _usable_importance(importance_W, width)
    native = _native().quantize_chunk
    if native is not None:
        return _chunk_bytes(native, rows_NW, type_name, importance_W)
    if _needs_native(type_name, importance_W is not None):
        _native_or_raise(type_name, importance_W is not None)
    return _numpy_bytes(rows_NW, type_name)


def dequantize_rows(bytes_NB: np.ndarray, type_name: str) -> np.ndarray:
    """Expand quantised rows, uint8 (N, B), to float32 (N, W).

    Raises:
        ConfigError: there is no such type, or the gguf package is absent.
    """
    _block_type(type_name)
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(f"expanding {type_name} needs the package gguf, which is not installed; {INSTALL}") from error
    return gguf.quants.dequantize(bytes_NB, gguf.GGMLQuantizationType[type_name])


def self_test_block() -> tuple[np.ndarray, np.ndarray]:
    """The rows (1, 512) and importance (512,) of the self-test: fractions that float32 holds exactly."""
    numbers = (np.arange(512, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(40503)) >> np.uint64(7)
    rows = ((numbers % np.uint64(65536)).astype(np.float32) - 32768) / 32768
    return rows.reshape(1, -1), (1 + np.arange(512) % 7).astype(np.float32)


def _block_type(name: str) -> BlockType:
    if name not in BLOCK_TYPES:
        raise ConfigError(
            f"{name!r} is no type of a GGUF tensor that this exporter makes.{did_you_mean(name, BLOCK_TYPES)}"
        )
    return BLOCK_TYPES[name]


def _check_values(rows_NW: np.ndarray, type_name: str) -> None:
    low, high = float(rows_NW.min()), float(rows_NW.max())
    largest = _LARGEST.get(type_name, 65504.0)
    if -largest <= low and high <= largest:
        return
    row, column = np.argwhere(~(np.abs(rows_NW) <= largest))[0]
    value = float(rows_NW[row, column])
    if np.isfinite(value):
        raise ExportError(f"row {row}, column {column} holds {value:g}, too large for {type_name}; use F32 or BF16")
    raise ExportError(f"row {row}, column {column} holds {value}; the model or the adapter is damaged")


def _numpy_bytes(rows_NW: np.ndarray, type_name: str) -> np.ndarray:
    if type_name == "F16":
        return rows_NW.astype(np.float16).view(np.uint8)
    if type_name == "BF16":
        return _bf16_bytes(rows_NW)
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(f"{type_name} needs the package gguf, which is not installed; {INSTALL}") from error
    return gguf.quants.quantize(rows_NW, gguf.GGMLQuantizationType[type_name])


def _bf16_bytes(rows_NW: np.ndarray) -> np.ndarray:
    """BF16 is the upper half of a float32: half of its last place is added, less one unless that makes it even."""
    bits_NW = rows_NW.view(np.uint32)
    rounded_NW = bits_NW >> np.uint32(16)
    rounded_NW &= np.uint32(1)
    rounded_NW += np.uint32(0x7FFF)
    rounded_NW += bits_NW
    rounded_NW >>= np.uint32(16)
    return rounded_NW.astype(np.uint16).view(np.uint8)


def _usable_importance(importance_W: np.ndarray | None, width: int) -> np.ndarray | None:
    """Check an importance and raise its zeros to the floor; None where no column stands out because all are zero."""
    if importance_W is None:
        return None
    importance_W = np.ascontiguousarray(importance_W, dtype=np.float32)
    if importance_W.shape != (width,):
        raise ExportError(
            f"the importance has the shape {importance_W.shape}, the rows are {width} wide; collect it anew"
        )
    if not np.isfinite(importance_W).all() or (importance_W < 0).any():
        raise ExportError("the importance holds a value that is negative or no number; collect it anew")
    mean = float(importance_W.mean(dtype=np.float64))
    return np.maximum(importance_W, np.float32(mean * _IMPORTANCE_FLOOR)) if mean > 0 else None


def _chunk_bytes(
    quantize_chunk: _QuantizeChunk, rows_NW: np.ndarray, type_name: str, importance_W: np.ndarray | None
) -> np.ndarray:
    num_rows, width = rows_NW.shape
    bytes_NB = np.empty((num_rows, row_bytes(type_name, width)), np.uint8)
    importance = None if importance_W is None else importance_W.ctypes.data
    written = quantize_chunk(
        BLOCK_TYPES[type_name].number, rows_NW.ctypes.data, bytes_NB.ctypes.data, 0, num_rows, width, importance
    )
    if written != bytes_NB.nbytes:
        raise ExportError(f"ggml wrote {written} bytes of {type_name} where {bytes_NB.nbytes} were due; {INSTALL}")
    return bytes_NB


def _needs_native(type_name: str, with_importance: bool) -> bool:
    if type_name in PLAIN_TYPES:
        return False
    return type_name not in NUMPY_TYPES or (with_importance and type_name != "Q8_0")


def _native_or_raise(type_name: str, with_importance: bool) -> None:
    native = _native()
    if native.quantize_chunk is None:
        what = f"{type_name} with an importance matrix" if with_importance else type_name
        known = ", ".join((*PLAIN_TYPES, *NUMPY_TYPES))
        raise ConfigError(f"{what} needs {native.problem}; {INSTALL}, or choose among {known} (without importance)")


@functools.cache
def _native() -> _Native:
    """Find, test and keep the quantiser; the answer holds for the life of the process."""
    spec = importlib.util.find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        return _Native(None, "the package xllamacpp, which is not installed")
    files = sorted(file for file in Path(spec.origin).parent.glob("xllamacpp*") if file.suffix in (".so", ".pyd"))
    package = f"another version of xllamacpp ({_version('xllamacpp')} is installed"
    if not files:
        return _Native(None, f"{package}, which has no shared object)")
    try:
        function = ctypes.CDLL(str(files[0])).ggml_quantize_chunk
    except (OSError, AttributeError) as error:
        return _Native(None, f"{package}, which cannot be used: {error})")
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    function.argtypes = (ctypes.c_int, pointer, pointer, size, size, size, pointer)
    function.restype = ctypes.c_size_t
    wrong = failed_self_tests(function)
    if wrong:
        return _Native(None, f"{package}, which gives wrong bytes for {', '.join(wrong)})")
    return _Native(function)


def failed_self_tests(quantize_chunk: _QuantizeChunk) -> list[str]:
    """Quantise the self-test's block to every block type; returns the types whose bytes are not the known ones."""
    rows_NW, importance_W = self_test_block()
    failed = []
    for name, known in _KNOWN_BYTES.items():
        digest = hashlib.sha256(_chunk_bytes(quantize_chunk, rows_NW, name, None).tobytes())
        digest.update(_chunk_bytes(quantize_chunk, rows_NW, name, importance_W).tobytes())
        if digest.hexdigest() != known:
            failed.append(name)
    return failed


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "an unknown version"
