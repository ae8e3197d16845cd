"""An index of the items' runs of words, in which runs of training rows are looked up. Used by contamination.py."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.data.likeness.word_hashes import Hashes, Positions, RowWords, hash_runs

_FILTER_BITS = 22
_FEWEST_ITEMS = 10


class ItemRuns:
    """The items' words as hashes, one item after the other."""

    def __init__(self) -> None:
        self._hashes: list[Hashes] = []
        self._counts: list[Positions] = []
        self._single: list[NDArray[np.bool_]] = []
        self._joined: RowWords | None = None

    def add(self, words: RowWords) -> None:
        """Append some items."""
        self._hashes.append(words.hashes)
        self._counts.append(np.diff(words.offsets))
        self._single.append(words.is_single)
        self._joined = None

    @property
    def words(self) -> RowWords:
        """All items."""
        if self._joined is None:
            hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *self._hashes])
            counts = np.concatenate([np.zeros(1, dtype=np.int64), *self._counts])
            single = np.concatenate([np.zeros(0, dtype=np.bool_), *self._single])
            self._hashes, self._counts, self._single = [hashes], [counts[1:]], [single]
            self._joined = RowWords(hashes, np.cumsum(counts), single)
        return self._joined

    @property
    def num_items(self) -> int:
        """Items added."""
        return len(self.words.offsets) - 1

    @property
    def num_words(self) -> int:
        """Words of all items."""
        return len(self.words.hashes)

    def start(self, item: int) -> int:
        """The place of an item's first word among all words."""
        return int(self.words.offsets[item])

    def lengths(self, shortest: int, words: int) -> list[int]:
        """Lengths of runs to look for: `words`, and each length of a shorter item down to `shortest`."""
        sizes = np.minimum(np.diff(self.words.offsets), words)
        return np.unique(sizes[sizes >= min(shortest, words)]).tolist()


@dataclass(frozen=True, slots=True)
class RunMatch:
    """Equal words: `num_words` from `item_place` in item `item` and from `row_place` in row `row` of a batch."""

    item: int
    item_place: int
    row: int
    row_place: int
    num_words: int


class RunIndex:
    """All runs of `length` words of the items; with `whole` only of the items that have no more words.

    Runs that more than `most_share` of the items hold are no part of it.
    """

    def __init__(self, items: ItemRuns, length: int, *, whole: bool, most_share: float) -> None:
        self._length = length
        words = self._words = items.words
        runs, places = _runs_inside(words, length)
        owners = np.searchsorted(words.offsets, places, side="right") - 1
        if whole:
            kept = np.diff(words.offsets)[owners] == length
            runs, places, owners = runs[kept], places[kept], owners[kept]
        order = np.argsort(runs, kind="stable")
        runs, places, owners = runs[order], places[order], owners[order]
        self._runs, self._firsts, sizes = np.unique(runs, return_index=True, return_counts=True)
        self._lasts = self._firsts + sizes
        self._items = owners.astype(np.int32)
        self._item_places = (places - words.offsets[owners]).astype(np.int32)
        self._rows_with = np.zeros(len(self._runs), dtype=np.int64)
        changes = np.ones(len(runs), dtype=bool)
        changes[1:] = (runs[1:] != runs[:-1]) | (owners[1:] != owners[:-1])
        items_with = np.add.reduceat(changes.astype(np.int64), self._firsts) if len(runs) else self._rows_with
        self._counts = items_with <= max(_FEWEST_ITEMS, most_share * items.num_items)
        self._filter = np.zeros(1 << _FILTER_BITS, dtype=bool)
        self._filter[(self._runs >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)] = True

    def count(self, row_words: RowWords) -> None:
        """Count in how many of these rows each run stands."""
        runs, rows, _ = self._look_up(row_words)
        pairs = np.unique(rows * len(self._runs) + runs)
        np.add.at(self._rows_with, pairs % max(len(self._runs), 1), 1)

    def drop_templates(self, most_rows: float) -> None:
        """Let runs that stand in more of the counted rows no longer match."""
        self._counts &= self._rows_with <= most_rows

    def template_words(self) -> NDArray[np.bool_]:
        """Which of all the items' words stand in a run that does not match."""
        entries = np.flatnonzero(np.repeat(~self._counts, self._lasts - self._firsts))
        starts = self._words.offsets[self._items[entries]] + self._item_places[entries]
        changes = np.zeros(len(self._words.hashes) + 1, dtype=np.int64)
        np.add.at(changes, starts, 1)
        np.add.at(changes, starts + self._length, -1)
        return np.cumsum(changes)[:-1] > 0

    def matches(self, row_words: RowWords) -> Iterator[RunMatch]:
        """Find what rows and items have in common, runs that go on joined into one."""
        runs, rows, places = self._look_up(row_words)
        kept = self._counts[runs]
        runs, rows, places = runs[kept], rows[kept], places[kept]
        sizes = self._lasts[runs] - self._firsts[runs]
        ends = np.cumsum(sizes)
        entries = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - sizes - self._firsts[runs], sizes)
        rows, places = np.repeat(rows, sizes), np.repeat(places, sizes) - np.repeat(row_words.offsets[rows], sizes)
        items, item_places = self._items[entries], self._item_places[entries].astype(np.int64)
        order = np.lexsort((places, places - item_places, items, rows))
        rows, places, items, item_places = rows[order], places[order], items[order], item_places[order]
        first = np.ones(len(rows), dtype=bool)
        first[1:] = (np.diff(rows) != 0) | (np.diff(items) != 0) | (np.diff(places) != 1) | (np.diff(item_places) != 1)
        starts = np.flatnonzero(first)
        lengths = np.diff(np.append(starts, len(rows))) + self._length - 1
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
            yield RunMatch(int(items[start]), int(item_places[start]), int(rows[start]), int(places[start]), length)

    def _look_up(self, row_words: RowWords) -> tuple[NDArray[np.intp], Positions, Positions]:
        """Runs of the rows that are in the index: number of the run, row, and place among all words."""
        runs, places = _runs_inside(row_words, self._length)
        likely = self._filter[(runs >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)]
        runs, places = runs[likely], places[likely]
        found = np.searchsorted(self._runs, runs)
        found[found == len(self._runs)] = 0
        equal = self._runs[found] == runs if len(self._runs) else np.zeros(0, dtype=bool)
        found, places = found[equal], places[equal]
        return found, np.searchsorted(row_words.offsets, places, side="right") - 1, places


def _runs_inside(row_words: RowWords, length: int) -> tuple[Hashes, Positions]:
    """Hash the runs of `length` words of many rows, none across two rows; with the place of each run's first word."""
    runs = hash_runs(row_words.hashes, length)
    places = np.arange(len(runs), dtype=np.int64)
    ends = row_words.offsets[np.searchsorted(row_words.offsets, places, side="right")]
    inside = places + length <= ends
    return runs[inside], places[inside]
