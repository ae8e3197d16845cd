"""MinHash signatures in bands, and the pairs of rows that agree in several of them. Used by near_duplicates.py."""

import tempfile
import weakref
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.data.likeness.word_hashes import Hashes, hash_rows, hash_runs, mix
from finetune.data.store import raise_disk_full

NUM_BANDS, ROWS_PER_BAND = 42, 3
"""Rows are compared when three bands of 42 are equal: for rows that have the share s of word pairs in common, each is
with probability s^3, which makes 99.99 % at s = 0.7, 99 % at 0.6 and 90 % at 0.5."""
CANDIDATES_PER_ROW = 6
"""Each row is compared with at most so many earlier ones, those that it meets most often."""
_BLOCK_ROWS = 1 << 16
_FEWEST_EQUAL_BANDS = 3


class BandFile:
    """32-bit keys of the rows' bands in a temporary file, in blocks that hold one band after the other."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the object)
        weakref.finalize(self, self._file.close)
        self._waiting: list[NDArray[np.uint32]] = []
        self._num_waiting = 0
        self._blocks: list[int] = []
        self.num_rows = 0

    def add(self, texts: Sequence[str]) -> Hashes:
        """Sign some rows and return the hashes of all their words."""
        from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue] (it has no stubs)

        words = hash_rows(texts)
        pairs, offsets = _word_pairs(words.hashes, words.offsets)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            pairs, offsets.astype(np.uint64), NUM_BANDS * ROWS_PER_BAND, self._seed
        )
        values = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(texts), NUM_BANDS, ROWS_PER_BAND)
        keys = np.zeros(values.shape[:2], dtype=np.uint64)
        for place in range(ROWS_PER_BAND):
            keys = mix(keys + values[:, :, place])
        self._waiting.append((keys >> np.uint64(32)).astype(np.uint32))
        self._num_waiting += len(texts)
        self.num_rows += len(texts)
        if self._num_waiting >= _BLOCK_ROWS:
            self._write()
        return words.hashes

    def ordered(self, band: int) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
        """Return the rows sorted by the keys from `band` on, and the keys of that band in this order."""
        keys = self.keys(band)
        order_keys = keys.astype(np.uint64) << np.uint64(32)
        order_keys |= (self.keys(band + 1) >> np.uint32(16)).astype(np.uint64) << np.uint64(16)
        order_keys |= (self.keys(band + 2) >> np.uint32(16)).astype(np.uint64)
        order = np.argsort(order_keys, kind="stable")
        return order, keys[order]

    def _write(self) -> None:
        if self._waiting:
            block = np.concatenate(self._waiting)
            self._file.seek(0, 2)
            try:
                self._file.write(np.ascontiguousarray(block.T).tobytes())
            except OSError as error:
                raise_disk_full(error)
            self._blocks.append(len(block))
            self._waiting, self._num_waiting = [], 0

    def keys(self, band: int) -> NDArray[np.uint32]:
        """Return every row's key of a band; behind the last band comes the first."""
        self._write()
        band %= NUM_BANDS
        keys = np.empty(self.num_rows, dtype=np.uint32)
        start = row = 0
        for size in self._blocks:
            self._file.seek(start + 4 * size * band)
            keys[row : row + size] = np.frombuffer(self._file.read(4 * size), dtype=np.uint32)
            start += 4 * size * NUM_BANDS
            row += size
        return keys


class Candidates:
    """For each row the earlier rows that it met most often; counted as by Misra and Gries (1982) in few slots a row."""

    def __init__(self, num_rows: int) -> None:
        self._rows = np.full((num_rows, CANDIDATES_PER_ROW), -1, dtype=np.int32)
        self._votes = np.zeros((num_rows, CANDIDATES_PER_ROW), dtype=np.uint8)

    def add_neighbours(self, order: NDArray[np.intp], keys: NDArray[np.uint32]) -> None:
        """Count rows side by side that have the same key; the earlier one is a candidate for the later."""
        equal = np.flatnonzero(keys[1:] == keys[:-1])
        before, after = order[equal], order[equal + 1]
        for rows, others in ((after, before), (before, after)):
            later = rows > others
            for start in range(0, len(rows), _BLOCK_ROWS):
                block = slice(start, start + _BLOCK_ROWS)
                self._vote(rows[block][later[block]], others[block][later[block]])

    def drop_unlikely(self, bands: Iterable[NDArray[np.uint32]]) -> None:
        """Count the equal keys of each row and its candidates; those with fewer than three are no candidates."""
        rows, places = np.nonzero(self._votes)
        others = self._rows[rows, places]
        counts = np.zeros(len(rows), dtype=np.uint8)
        for keys in bands:
            counts += keys[rows] == keys[others]
        self._votes[rows, places] = np.where(counts >= _FEWEST_EQUAL_BANDS, counts, 0)

    def rows(self) -> list[int]:
        """Rows that have candidates, in order."""
        return np.flatnonzero(self._votes.any(axis=1)).tolist()

    def of(self, row: int) -> list[int]:
        """A row's candidates, most equal keys first, then the earliest."""
        votes = self._votes[row]
        found = [place for place in range(CANDIDATES_PER_ROW) if votes[place]]
        others = self._rows[row]
        found.sort(key=lambda place: (-int(votes[place]), int(others[place])))
        return [int(others[place]) for place in found]

    def _vote(self, rows: NDArray[np.intp], others: NDArray[np.intp]) -> None:
        """Count one meeting of each row (no row stands twice in `rows`)."""
        held, votes = self._rows[rows], self._votes[rows]
        known = (held == others[:, None]) & (votes > 0)
        is_known = known.any(axis=1)
        votes[known] += 1
        free = (votes == 0) & ~is_known[:, None]
        has_free = free.any(axis=1)
        place = free.argmax(axis=1)[has_free]
        lines = np.flatnonzero(has_free)
        held[lines, place] = others[lines]
        votes[lines, place] = 1
        votes[~is_known & ~has_free] -= 1
        self._rows[rows], self._votes[rows] = held, votes


def _word_pairs(hashes: Hashes, offsets: NDArray[np.int64]) -> tuple[Hashes, NDArray[np.int64]]:
    """Hash neighbouring words of each row, with a mark at both ends: W words give W + 1 pairs."""
    num_rows = len(offsets) - 1
    marked = np.insert(hashes, offsets[:-1], np.uint64(0))
    marked = np.append(marked, np.uint64(0))
    return hash_runs(marked, 2), offsets + np.arange(num_rows + 1)
