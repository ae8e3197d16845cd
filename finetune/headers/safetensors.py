"""The header of a safetensors file, checked as strictly as the format says, in bounded time and memory; no torch.

Format: 8 bytes little-endian header length, a JSON header, the tensors' bytes without gaps or overlaps
(https://huggingface.co/docs/safetensors, "Format").
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.headers import HeaderProblem

BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
"""Size of a value of each type."""
MOST_HEADER_BYTES = 32_000_000
"""A third of the format's own limit; headers of the largest open models have two million bytes."""
_BYTES_PER_BRACKET = 12
"""Fewer bytes for each bracket or comma than any real entry has stand for a header made to fill the memory."""
_SPARE_BRACKETS = 100_000
_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class HeaderEntry:
    """One tensor as the header describes it; offsets are those of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_safetensors_header(path: Path) -> list[HeaderEntry]:
    """Return the tensors of a file in the order of their bytes.

    Raises:
        HeaderProblem: the file is no whole safetensors file.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        if first == b"version ":
            raise HeaderProblem("is a Git LFS pointer, not the weights; run `git lfs pull` in that folder")
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length < 2 or length > size - 8:
            raise HeaderProblem(
                f"is no whole safetensors file (truncated, or no safetensors file at all; {size:,} bytes)"
            )
        if length > MOST_HEADER_BYTES:
            raise HeaderProblem(f"has a header of {length:,} bytes; more than {MOST_HEADER_BYTES:,} are not read")
        header = _parse(file.read(length))
    entries = [_entry(name, item, 8 + length) for name, item in header.items() if name != "__metadata__"]
    entries.sort(key=lambda entry: (entry.start, entry.stop))
    reached = 8 + length
    for entry in entries:
        if entry.start != reached:
            raise HeaderProblem(f"tensor {entry.name[:80]!r} begins at byte {entry.start:,} instead of {reached:,}")
        reached = entry.stop
    if reached > size:
        raise HeaderProblem(f"is cut short or truncated ({size:,} of {reached:,} bytes)")
    if reached < size:
        raise HeaderProblem(f"has {size - reached:,} bytes behind its last tensor, which nothing describes")
    return entries


def load_file(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Load all tensors of a file by the safetensors library, after its header has been checked.

    Raises:
        HeaderProblem: see `read_safetensors_header`.
    """
    from safetensors.torch import load_file as load

    read_safetensors_header(Path(path))
    return load(path, device=device)


def check_safetensors_folder(folder: Path) -> None:
    """Check the headers of all safetensors files directly in a folder, whichever of them a library may take.

    Raises:
        HeaderProblem: naming the file.
    """
    for path in sorted(folder.glob("*.safetensors")):
        try:
            read_safetensors_header(path)
        except HeaderProblem as problem:
            raise HeaderProblem(f"{path}: {problem}") from None


def _parse(raw: bytes) -> dict[str, Any]:
    brackets = raw.count(b"{") + raw.count(b"[") + raw.count(b",")
    if brackets > _SPARE_BRACKETS + len(raw) // _BYTES_PER_BRACKET:
        raise HeaderProblem("is no whole safetensors file: its header is no list of tensors")
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except HeaderProblem:
        raise
    except (ValueError, RecursionError):
        raise HeaderProblem("is no whole safetensors file: its header is no JSON") from None
    if not isinstance(header, dict) or not raw.startswith(b"{"):
        raise HeaderProblem("is no whole safetensors file: its header is no JSON object")
    notes = header.get("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise HeaderProblem("has metadata that are no texts")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise HeaderProblem("names a tensor twice")
    return found


def _entry(name: str, item: Any, data_start: int) -> HeaderEntry:
    shown = repr(name[:80])
    if not isinstance(item, dict) or set(item) != _KEYS:
        raise HeaderProblem(f"describes tensor {shown} without type, shape and offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise HeaderProblem(f"gives tensor {shown} the type {str(dtype)[:40]!r}, which the format lacks")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderProblem(f"gives tensor {shown} a shape or offsets that are none")
    bits = math.prod(shape) * BITS[dtype]
    if bits % 8 or offsets[1] - offsets[0] != bits // 8:
        raise HeaderProblem(f"is damaged: the size of tensor {shown} contradicts its shape {str(shape)[:80]}")
    return HeaderEntry(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def _are_sizes(values: Any) -> bool:
    """Whether this is a short list of whole numbers of 63 bits; True and False are none."""
    return isinstance(values, list) and len(values) <= 32 and all(type(v) is int and 0 <= v < 1 << 63 for v in values)
