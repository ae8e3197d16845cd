"""Block types: size, accuracy, the bytes of gguf and ggml, importance, and what remains without the libraries."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from finetune.errors import ConfigError, ExportError
from finetune.export.gguf import quantize
from finetune.export.gguf.quantize import (
    BLOCK_TYPES,
    NUMPY_TYPES,
    PLAIN_TYPES,
    block_width,
    check_types,
    dequantize_rows,
    quantize_rows,
    row_bytes,
)

NATIVE_TYPES = tuple(name for name in BLOCK_TYPES if name not in PLAIN_TYPES)

LARGEST_ERROR = {
    "F32": 0.0,
    "F16": 0.0003,
    "BF16": 0.002,
    "Q8_0": 0.0056,
    "Q6_K": 0.019,
    "Q5_K": 0.038,
    "Q4_K": 0.075,
    "Q3_K": 0.158,
    "Q2_K": 0.31,
    "Q4_0": 0.089,
    "Q4_1": 0.081,
    "Q5_0": 0.045,
    "Q5_1": 0.040,
    "IQ4_NL": 0.080,
    "IQ4_XS": 0.080,
}
"""Root mean square error over root mean square of Gaussian values: measured with ggml, rounded up by 3 to 6 %."""


@pytest.fixture
def without_xllamacpp(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has only the gguf package."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    quantize._native.cache_clear()
    yield
    quantize._native.cache_clear()


@pytest.fixture
def fresh_library() -> Iterator[None]:
    """Let this test load and test the shared object anew."""
    quantize._native.cache_clear()
    yield
    quantize._native.cache_clear()


def gaussian_rows(num_rows: int = 16, width: int = 1024, seed: int = 0) -> np.ndarray:
    """Rows such as a weight matrix has."""
    return np.random.default_rng(seed).standard_normal((num_rows, width), dtype=np.float32) * 0.02


def relative_error(rows: np.ndarray, type_name: str, importance: np.ndarray | None = None) -> float:
    """Error after a round trip, as a share of the rows' size."""
    restored = dequantize_rows(quantize_rows(rows, type_name, importance), type_name)
    return float(np.sqrt(np.square(restored - rows).mean() / np.square(rows).mean()))


def test_the_table_of_types_is_that_of_gguf() -> None:
    gguf = pytest.importorskip("gguf")
    for name, block in BLOCK_TYPES.items():
        kind = gguf.GGMLQuantizationType[name]
        assert (block.number, block.width, block.num_bytes) == (int(kind), *gguf.GGML_QUANT_SIZES[kind])


def test_sizes() -> None:
    assert (block_width("Q4_K"), block_width("Q8_0"), block_width("BF16")) == (256, 32, 1)
    assert (row_bytes("Q4_K", 512), row_bytes("Q8_0", 96), row_bytes("F16", 7)) == (288, 102, 14)
    with pytest.raises(ExportError, match="rows of 320 values do not fit Q4_K, whose blocks hold 256"):
        row_bytes("Q4_K", 320)
    with pytest.raises(ConfigError, match=r"'Q4_K_M' is no type .* Did you mean 'Q4_K'"):
        block_width("Q4_K_M")


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_accuracy_on_gaussian_rows(name: str) -> None:
    pytest.importorskip("gguf")
    if name in NATIVE_TYPES:
        pytest.importorskip("xllamacpp")
    rows = gaussian_rows()
    assert quantize_rows(rows, name).shape == (16, row_bytes(name, 1024))
    assert relative_error(rows, name) <= LARGEST_ERROR[name]


@pytest.mark.parametrize("name", [*PLAIN_TYPES, *NUMPY_TYPES])
def test_bytes_are_those_of_gguf(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    rows = gaussian_rows(64, 256) * np.float32(10.0) ** np.arange(-6, 3, dtype=np.float32).repeat(8)[:64, None]
    rows[3] = 0
    rows[4, :64] = np.float32(2.0) ** -np.arange(64, dtype=np.float32)
    rows[5, ::2] = -rows[5, 1::2]
    expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[name])
    assert quantize_rows(rows, name).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_numpy_rounds_as_ggml_does(name: str) -> None:
    pytest.importorskip("xllamacpp")
    bits = np.random.default_rng(1).integers(0, 2**32, 200_000, dtype=np.uint32)
    halves = (np.arange(40_000, dtype=np.uint32) << np.uint32(16)) | np.uint32(0x8000)
    values = np.concatenate([bits, halves]).view(np.float32)
    rows = values[np.abs(values) <= quantize._LARGEST.get(name, 65504.0)].reshape(1, -1)
    native = quantize._native().quantize_chunk
    assert native is not None
    assert quantize._numpy_bytes(rows, name).tobytes() == quantize._chunk_bytes(native, rows, name, None).tobytes()


@pytest.mark.parametrize("name", NATIVE_TYPES)
def test_threads_give_the_bytes_of_one(name: str) -> None:
    pytest.importorskip("xllamacpp")
    rows = gaussian_rows(8 if name.startswith("IQ") else 32, 512)
    serial = quantize_rows(rows, name)
    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(lambda start: quantize_rows(rows[start : start + 2], name), range(0, len(rows), 2)))
    assert np.concatenate(blocks).tobytes() == serial.tobytes()


@pytest.mark.parametrize("name", [name for name in NATIVE_TYPES if name != "Q8_0"])
def test_importance_lowers_the_weighted_error(name: str) -> None:
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    rows = gaussian_rows(16, 512)
    importance = np.random.default_rng(2).exponential(size=512).astype(np.float32) ** 4

    def weighted_error(weights: np.ndarray | None) -> float:
        restored = dequantize_rows(quantize_rows(rows, name, weights), name)
        return float((np.square(restored - rows) * importance).mean())

    assert weighted_error(importance) < 0.97 * weighted_error(None)


def test_q8_0_takes_no_notice_of_importance() -> None:
    pytest.importorskip("xllamacpp")
    rows = gaussian_rows()
    assert quantize_rows(rows, "Q8_0", np.arange(1024)).tobytes() == quantize_rows(rows, "Q8_0").tobytes()


@pytest.mark.parametrize("name", NATIVE_TYPES)
def test_columns_that_were_never_used_stay_close(name: str) -> None:
    """An expert that no text reached, or columns that were always zero, must not come out as noise."""
    pytest.importorskip("gguf")
    pytest.importorskip("xllamacpp")
    rows = gaussian_rows(8, 512)
    half = np.zeros(512, np.float32)
    half[:256] = 1
    assert quantize_rows(rows, name, np.zeros(512)).tobytes() == quantize_rows(rows, name).tobytes()
    restored = dequantize_rows(quantize_rows(rows, name, half), name)
    assert np.abs(restored - rows)[:, 256:].mean() < 2 * LARGEST_ERROR[name] * np.abs(rows).mean()


@pytest.mark.parametrize(
    ("rows", "type_name", "message"),
    [
        (np.array([[1.0, np.nan]]), "F16", "row 0, column 1 holds nan"),
        (np.array([[1.0], [-np.inf]]), "F32", "row 1, column 0 holds -inf"),
        (np.full((2, 32), np.inf), "Q8_0", "row 0, column 0 holds inf"),
        (np.array([[1.0, -70000.0]]), "F16", r"column 1 holds -70000, too large for F16; use F32 or BF16"),
        (np.full((1, 256), 1e6), "Q4_K", "too large for Q4_K"),
        (np.zeros((1, 48)), "Q8_0", "rows of 48 values do not fit Q8_0"),
        (np.zeros(32), "Q8_0", r"shape \(32,\)"),
    ],
)
def test_values_that_cannot_be_stored(rows: np.ndarray, type_name: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        quantize_rows(rows, type_name)


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (np.ones(128), r"shape \(128,\), the rows are 256 wide"),
        (np.full(256, np.nan), "negative or no number"),
        (np.full(256, -1.0), "negative or no number"),
    ],
)
def test_importance_that_does_not_fit(importance: np.ndarray, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        quantize_rows(np.ones((1, 256)), "Q4_K", importance)


def test_strided_rows_and_no_rows() -> None:
    rows = gaussian_rows(8, 64)
    assert quantize_rows(rows[::2, ::2], "BF16").tobytes() == quantize_rows(rows[::2, ::2].copy(), "BF16").tobytes()
    assert quantize_rows(rows[:0], "Q8_0").shape == (0, 68)


def test_the_self_test_passes_and_notices_a_wrong_byte(monkeypatch: pytest.MonkeyPatch, fresh_library: None) -> None:
    pytest.importorskip("xllamacpp")
    assert set(quantize._KNOWN_BYTES) == set(BLOCK_TYPES) - {"F32"}
    assert quantize._native().problem == ""
    quantize._native.cache_clear()
    monkeypatch.setattr(quantize, "_KNOWN_BYTES", quantize._KNOWN_BYTES | {"Q4_K": "0" * 64})
    with pytest.raises(ConfigError, match=r"wrong bytes for Q4_K.*pip install 'finetune\[gguf\]'"):
        check_types(["Q6_K"])


def test_the_self_test_notices_a_library_that_ignores_importance(fresh_library: None) -> None:
    pytest.importorskip("xllamacpp")
    native = quantize._native().quantize_chunk
    assert native is not None
    failed = quantize.failed_self_tests(lambda *arguments: native(*arguments[:-1], None))
    assert set(failed) == set(NATIVE_TYPES) - {"Q8_0"}


def test_a_library_without_the_symbol(monkeypatch: pytest.MonkeyPatch, fresh_library: None) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(quantize.ctypes, "CDLL", lambda path: object())
    with pytest.raises(ConfigError, match=r"another version of xllamacpp \(\S+ is installed, .*ggml_quantize_chunk"):
        check_types(["Q4_K"])
    assert quantize_rows(np.ones((1, 32)), "Q8_0").shape == (1, 34)


def test_without_xllamacpp_the_simple_types_remain(without_xllamacpp: None) -> None:
    pytest.importorskip("gguf")
    check_types([*PLAIN_TYPES, *NUMPY_TYPES])
    for name in (*PLAIN_TYPES, *NUMPY_TYPES):
        assert relative_error(gaussian_rows(), name) <= LARGEST_ERROR[name]
    with pytest.raises(ConfigError, match=r"Q4_K needs the package xllamacpp.*pip install 'finetune\[gguf\]'"):
        check_types(["F16", "Q4_K"])
    with pytest.raises(ConfigError, match="IQ4_XS needs the package xllamacpp"):
        quantize_rows(gaussian_rows(), "IQ4_XS")


def test_without_xllamacpp_importance_is_refused_not_ignored(without_xllamacpp: None) -> None:
    pytest.importorskip("gguf")
    check_types(["Q8_0", "F16"], with_importance=True)
    with pytest.raises(ConfigError, match="Q4_0 with an importance matrix needs"):
        check_types(["Q4_0"], with_importance=True)
    with pytest.raises(ConfigError, match="Q4_0 with an importance matrix needs"):
        quantize_rows(gaussian_rows(), "Q4_0", np.ones(1024))
    assert quantize_rows(gaussian_rows(), "Q8_0", np.ones(1024)).shape == (16, 1088)


def test_without_gguf_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, without_xllamacpp: None) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"needs the package gguf.*pip install 'finetune\[gguf\]'"):
        check_types(["F16"])
    with pytest.raises(ConfigError, match=r"Q8_0 needs the package gguf"):
        quantize_rows(gaussian_rows(), "Q8_0")
    with pytest.raises(ConfigError, match="expanding F16 needs the package gguf"):
        dequantize_rows(np.zeros((1, 2), np.uint8), "F16")
    assert quantize_rows(np.ones((1, 1)), "F16").tobytes() == b"\x00\x3c"


def test_unknown_type_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'Q4_X' is no type of a GGUF tensor"):
        check_types(["Q4_X"])
