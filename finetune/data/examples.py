"""Tokenised rows on disk: token ids and loss masks in flat files, one example in memory at a time. For tokenize.py.

Legend: N examples, T tokens of all examples together.
"""

import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from finetune.data.store import raise_disk_full
from finetune.records import Example

_IDS, _MASK, _NAMES = "ids.uint32", "mask.uint8", "names.utf8"
_INDEX = {"lengths": "lengths.uint32", "num_bytes": "bytes.uint64", "name_sizes": "name_sizes.uint32"}
_TYPES = {"lengths": np.uint32, "num_bytes": np.uint64, "name_sizes": np.uint32}
FILES = (_IDS, _MASK, _NAMES, *_INDEX.values())


class ExampleWriter:
    """Writes examples one after the other into a folder's flat files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = {name: (folder / name).open("wb") for name in (_IDS, _MASK, _NAMES)}
        self._index = {"lengths": array("I"), "num_bytes": array("Q"), "name_sizes": array("I")}

    def __len__(self) -> int:
        return len(self._index["lengths"])

    def add(self, example: Example) -> None:
        """Append an example.

        Raises:
            ResourceError: the disk is full.
        """
        name = example.item_id.encode(errors="surrogatepass")
        try:
            self._files[_IDS].write(array("I", example.input_ids).tobytes())
            self._files[_MASK].write(bytes(example.loss_mask))
            self._files[_NAMES].write(name)
        except OSError as error:
            raise_disk_full(error)
        self._index["lengths"].append(len(example.input_ids))
        self._index["num_bytes"].append(example.num_supervised_bytes)
        self._index["name_sizes"].append(len(name))

    def close(self) -> None:
        """Write what is still in memory."""
        try:
            for file in self._files.values():
                file.close()
            for name, values in self._index.items():
                (self._folder / _INDEX[name]).write_bytes(values.tobytes())
        except OSError as error:
            raise_disk_full(error)


class Examples(Sequence[Example]):
    """The examples of a folder, each read when it is asked for; some twenty bytes of memory each.

    `keep_alive` is the temporary folder that holds the files, if it is one.
    """

    def __init__(self, folder: Path, keep_alive: tempfile.TemporaryDirectory[str] | None = None) -> None:
        self._keep_alive = keep_alive
        index = {name: np.fromfile(folder / file, dtype=_TYPES[name]) for name, file in _INDEX.items()}
        self.lengths_N = index["lengths"].astype(np.int64)
        """Tokens of each example."""
        self._num_bytes_N = index["num_bytes"]
        self._ends_N = np.cumsum(self.lengths_N)
        self._name_ends_N = np.cumsum(index["name_sizes"].astype(np.int64))
        self._ids_T = _map(folder / _IDS, np.uint32)
        self._mask_T = _map(folder / _MASK, np.uint8)
        self._names = _map(folder / _NAMES, np.uint8)

    def __len__(self) -> int:
        return len(self.lengths_N)

    def __iter__(self) -> Iterator[Example]:
        return (self._read(number) for number in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self._read(number) for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return self._read(index % len(self))

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    @property
    def num_supervised(self) -> int:
        """Tokens with loss over all examples; the first token of an example never has any."""
        return int(self._mask_T.sum(dtype=np.int64))

    @property
    def supervised_N(self) -> "np.ndarray[Any, Any]":
        """Tokens with loss of each example."""
        counts_N = np.zeros(len(self), dtype=np.int64)
        is_filled_N = self.lengths_N > 0
        starts = (self._ends_N - self.lengths_N)[is_filled_N]
        if len(starts):
            counts_N[is_filled_N] = np.add.reduceat(self._mask_T, starts, dtype=np.int64)
        return counts_N

    def _read(self, number: int) -> Example:
        end = int(self._ends_N[number])
        start = end - int(self.lengths_N[number])
        name_end = int(self._name_ends_N[number])
        name_start = int(self._name_ends_N[number - 1]) if number else 0
        return Example(
            item_id=bytes(self._names[name_start:name_end]).decode(errors="surrogatepass"),
            input_ids=self._ids_T[start:end].tolist(),
            loss_mask=self._mask_T[start:end].astype(bool).tolist(),
            num_supervised_bytes=int(self._num_bytes_N[number]),
        )


def _map(path: Path, dtype: Any) -> "np.ndarray[Any, Any]":
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype=dtype)


def lengths_of(examples: Sequence[Example]) -> list[int]:
    """Return the number of tokens of each example, without reading them where they lie on disk."""
    if isinstance(examples, Examples):
        return examples.lengths_N.tolist()
    return [len(example.input_ids) for example in examples]


def num_supervised_of(examples: Sequence[Example]) -> int:
    """Count the tokens with loss over all examples, without reading them one by one where they lie on disk."""
    if isinstance(examples, Examples):
        return examples.num_supervised
    return sum(example.num_supervised for example in examples)


def supervised_of(examples: Sequence[Example]) -> list[int]:
    """Count the tokens with loss of each example, without reading them one by one where they lie on disk."""
    if isinstance(examples, Examples):
        return examples.supervised_N.tolist()
    return [example.num_supervised for example in examples]
