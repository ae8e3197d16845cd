"""The header of a GGUF file, checked before llama.cpp or the gguf package see it, in bounded time and memory.

Format: magic, version, counts, key-value pairs, tensor descriptions, padding, the tensors' bytes
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import math
import mmap
import struct
from pathlib import Path

from finetune.headers import HeaderProblem

BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""Values and bytes of a block of each tensor type (ggml.h, ggml-common.h)."""
MOST_PAIRS, MOST_TENSORS, MOST_ITEMS, MOST_NAME_BYTES = 65_536, 1_000_000, 4_000_000, 65_535
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value of each plain type."""
_BOOL, _STRING, _ARRAY, _UINT32 = 7, 8, 9, 4
_MOST_DIMENSIONS, _MOST_DEPTH = 4, 2


class _Reader:
    """Takes a file's bytes from front to back, never beyond its end."""

    def __init__(self, data: "mmap.mmap", size: int) -> None:
        self.data, self.size, self.place, self.num_items = data, size, 0, 0

    def skip(self, num_bytes: int) -> int:
        """Go on by some bytes, and return where they begin."""
        start, self.place = self.place, self.place + num_bytes
        if self.place > self.size:
            raise HeaderProblem(f"is truncated: its header reaches beyond the file's {self.size:,} bytes")
        return start

    def number(self, form: str) -> int:
        return struct.unpack_from(form, self.data, self.skip(struct.calcsize(form)))[0]

    def text(self, most: int) -> str:
        length = self.number("<Q")
        if length > most:
            raise HeaderProblem(f"has a name of {length:,} bytes")
        start = self.skip(length)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError:
            raise HeaderProblem("has a name that is no UTF-8") from None

    def value(self, kind: int, depth: int = 0) -> int | None:
        """Go over a value; returns the one of type uint32, which alone is asked for."""
        if kind == _STRING:
            self.skip(self.number("<Q"))
        elif kind == _ARRAY:
            self._array(depth)
        elif kind == _UINT32:
            return self.number("<I")
        elif kind in _SCALARS:
            start = self.skip(_SCALARS[kind])
            if kind == _BOOL and self.data[start] > 1:
                raise HeaderProblem("has a truth value that is neither true nor false")
        else:
            raise HeaderProblem(f"has a value of type {kind}, which the format lacks")
        return None

    def _array(self, depth: int) -> None:
        kind, count = self.number("<I"), self.number("<Q")
        if kind in _SCALARS:
            self.skip(min(count, self.size + 1) * _SCALARS[kind])
            return
        self.num_items += min(count, MOST_ITEMS + 1)
        if self.num_items > MOST_ITEMS or depth == _MOST_DEPTH:
            raise HeaderProblem(f"has lists of {count:,} entries, or lists nested too deep")
        for _ in range(count):
            self.value(kind, depth + 1)


def check_gguf_header(path: Path) -> int:
    """Check the header of a GGUF file and return the number of its tensors.

    Raises:
        HeaderProblem: it is no whole GGUF file of version 2 or 3.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(4)
        if start != b"GGUF" or size < 24:
            raise HeaderProblem(f"is no GGUF file ({size:,} bytes)")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _check(_Reader(data, size))


def _check(reader: _Reader) -> int:
    reader.skip(4)
    version, num_tensors, num_pairs = reader.number("<I"), reader.number("<Q"), reader.number("<Q")
    if version not in (2, 3):
        raise HeaderProblem(f"is of GGUF version {version}; 2 and 3 are read")
    if num_tensors > MOST_TENSORS or num_pairs > MOST_PAIRS:
        raise HeaderProblem(f"claims {num_tensors:,} tensors and {num_pairs:,} values")
    alignment = _check_pairs(reader, num_pairs)
    places = _tensors(reader, num_tensors, alignment)
    data_start = -(-reader.place // alignment) * alignment
    reached = 0
    for begin, end, name in sorted(places):
        if begin < reached:
            raise HeaderProblem(f"tensor {name!r} lies over another one")
        reached = end
    if num_tensors and data_start + reached > reader.size:
        raise HeaderProblem(f"is truncated ({reader.size:,} of {data_start + reached:,} bytes)")
    return num_tensors


def _check_pairs(reader: _Reader, num_pairs: int) -> int:
    """Go over the key-value pairs; returns the alignment that they name."""
    keys: set[str] = set()
    alignment = 32
    for _ in range(num_pairs):
        key = reader.text(MOST_NAME_BYTES)
        if not key or key in keys:
            raise HeaderProblem(f"names the value {key[:80]!r} twice" if key else "has a value without a name")
        keys.add(key)
        kind = reader.number("<I")
        value = reader.value(kind)
        if key == "general.alignment":
            if kind != _UINT32 or not value or value & (value - 1) or not 8 <= value <= 1 << 20:
                raise HeaderProblem(f"has an alignment of {value}, which is no power of two")
            alignment = value
    return alignment


def _tensors(reader: _Reader, num_tensors: int, alignment: int) -> list[tuple[int, int, str]]:
    """Where each tensor begins and ends behind the header, and its name."""
    places: list[tuple[int, int, str]] = []
    names: set[str] = set()
    for _ in range(num_tensors):
        name = reader.text(64 * 4)
        if not name or name in names:
            raise HeaderProblem(f"names tensor {name[:80]!r} twice" if name else "has a tensor without a name")
        names.add(name)
        num_dimensions = reader.number("<I")
        if not 1 <= num_dimensions <= _MOST_DIMENSIONS:
            raise HeaderProblem(f"gives tensor {name!r} {num_dimensions} dimensions")
        sizes = [reader.number("<Q") for _ in range(num_dimensions)]
        kind, offset = reader.number("<I"), reader.number("<Q")
        if kind not in BLOCKS:
            raise HeaderProblem(f"gives tensor {name!r} the type {kind}, which is unknown")
        values, num_bytes = BLOCKS[kind]
        if not all(0 < n < 1 << 62 for n in sizes) or math.prod(sizes) >= 1 << 62 or sizes[0] % values:
            raise HeaderProblem(f"gives tensor {name!r} the shape {sizes}, which its type cannot have")
        if offset % alignment or offset > reader.size:
            raise HeaderProblem(f"places tensor {name!r} at {offset:,}, which is not in the file or not aligned")
        places.append((offset, offset + math.prod(sizes) // values * num_bytes, name))
    return places
