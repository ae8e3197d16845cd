"""Finds test and benchmark items of which a long run of words stands in a training row too. Called by leaks.py.

Only hashes of the items' runs are held; the training rows are gone through twice: once to count which runs are
templates of the data set, once to measure the rest.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.data.convert.cells import find_column, is_null, parsed_cell
from finetune.data.convert.choices import OPTION_COLUMNS, letter_columns
from finetune.data.likeness.run_index import ItemRuns, RunIndex
from finetune.data.likeness.word_hashes import RowWords, fold, hash_rows, locate_words
from finetune.data.load import read_rows
from finetune.data.readers.raw import RawRow

SHORTEST_ITEM_WORDS = 5
"""Shorter items than `words` count where they stand in a training row as a whole; items below this never do."""
MOST_TRAINING_SHARE, FEWEST_TRAINING_ROWS = 0.01, 10
"""A run of words in more than 1 % of the training rows (and more than 10) is a template and does not count."""
MOST_ITEM_SHARE = 0.5
"""Nor does one in more than half of the items (and more than 10)."""
TEMPLATE_WORDS = 6
"""Words in a template run of so many words do not count either, nor do single letters and digits, nor an item's list of
options: a match needs two thirds of `words` others, or all others of an item that has fewer."""
FEWEST_TELLING_WORDS = 5
"""An item that says less beside its options is told by them too."""

Pair = TypeVar("Pair", bound=tuple[str, ...])
_BATCH_ROWS, _BATCH_CHARACTERS = 1024, 1 << 20
_EXCERPT_CHARACTERS = 200
_ID_COLUMNS = ("id", "item_id", "question_id", "task_id", "qid", "uid", "idx", "_id")
_NOT_TEXT = frozenset((
    *_ID_COLUMNS, "source", "url", "file", "filename", "subject", "subject_name", "category", "type", "split", "task",
    "group", "level", "label", "entry_point", "language", "lang", "date", "license", "answer_idx", "answerkey",
    "meta_info", "metadata", "topic", "topic_name", "dataset",
))  # fmt: skip


class Item(NamedTuple):
    """A test or benchmark item."""

    item_id: str
    text: str
    options: str = ""
    """The part of `text` that lists the options of a choice item; wrong ones may stand in many items."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """An item that the training rows give away."""

    item_id: str
    longest_match_words: int
    matched_share: float
    """Share of the item's words that stand in such runs, over all training rows."""
    source: str
    """The training row of the longest run; the first of several."""
    excerpt: str
    """That run as the training row writes it, at most 200 characters."""


def find_contamination(
    items: Iterable[Item | tuple[str, str]], training: Iterable[tuple[str, str]], *, words: int
) -> list[Overlap]:
    """Measure each item's longest run of words that a training row holds too; those of `words` or more are returned.

    `items` are `Item` or (id, text), `training` is (source, text) and is gone through twice. Capitals and punctuation
    do not matter. Items of 5 to `words` - 1 words count where a training row holds them whole. Options that an item
    shares with a row do not count by themselves.
    """
    ids: list[str] = []
    runs = ItemRuns()
    in_options: list[NDArray[np.bool_]] = []
    for batch in _batches(Item(*item) for item in items):
        ids += [item.item_id for item in batch]
        runs.add(hash_rows([item.text for item in batch]))
        in_options += map(_option_words, batch)
    indexes = [
        RunIndex(runs, length, whole=length < words, most_share=MOST_ITEM_SHARE)
        for length in runs.lengths(SHORTEST_ITEM_WORDS, words)
    ]
    if not indexes:
        return []
    short = RunIndex(runs, min(TEMPLATE_WORDS, words), whole=False, most_share=MOST_ITEM_SHARE)
    num_rows = 0
    for batch in _batches(training):
        num_rows += len(batch)
        row_words = hash_rows([text for _, text in batch])
        for index in (short, *indexes):
            index.count(row_words)
    for index in (short, *indexes):
        index.drop_templates(max(FEWEST_TRAINING_ROWS, MOST_TRAINING_SHARE * num_rows))
    best = _Best(runs, short.template_words(), np.concatenate(in_options), words)
    for batch in _batches(training):
        row_words = hash_rows([text for _, text in batch])
        for index in indexes:
            best.take(index, row_words, batch)
    return best.overlaps(ids)


class _Best:
    """The longest run of each item so far, and which of its words were found."""

    def __init__(
        self, runs: ItemRuns, in_template: NDArray[np.bool_], in_options: NDArray[np.bool_], words: int
    ) -> None:
        self._runs = runs
        self._words = words
        telling = ~in_template & ~runs.words.is_single
        self._needed = np.full(runs.num_items, 2 * words / 3)
        for item in range(runs.num_items):
            own = slice(runs.start(item), runs.start(item + 1))
            num_telling = int(np.count_nonzero(telling[own] & ~in_options[own]))
            if in_options[own].any() and num_telling >= FEWEST_TELLING_WORDS:
                telling[own] &= ~in_options[own]
                self._needed[item] = min(self._needed[item], num_telling)
        self._telling = np.concatenate(([0], np.cumsum(telling)))
        self._longest = np.zeros(runs.num_items, dtype=np.int64)
        self._found = np.zeros(runs.num_words, dtype=bool)
        self._places: dict[int, tuple[str, str]] = {}

    def take(self, index: RunIndex, row_words: RowWords, batch: list[tuple[str, str]]) -> None:
        """Measure the runs that a batch of training rows shares with the items."""
        for match in index.matches(row_words):
            start = self._runs.start(match.item) + match.item_place
            num_telling = self._telling[start + match.num_words] - self._telling[start]
            if match.num_words >= self._words and num_telling < self._needed[match.item]:
                continue
            self._found[start : start + match.num_words] = True
            if match.num_words > self._longest[match.item]:
                self._longest[match.item] = match.num_words
                source, text = batch[match.row]
                self._places[match.item] = (source, _excerpt(text, match.row_place, match.num_words))

    def overlaps(self, ids: list[str]) -> list[Overlap]:
        """List the items that were found, in their order."""
        found: list[Overlap] = []
        for item in np.flatnonzero(self._longest).tolist():
            words = self._found[self._runs.start(item) : self._runs.start(item + 1)]
            source, excerpt = self._places[item]
            found.append(Overlap(ids[item], int(self._longest[item]), float(words.mean()), source, excerpt))
        return found


def _option_words(item: Item) -> NDArray[np.bool_]:
    """Which words of an item's text stand in its list of options."""
    start = item.text.find(item.options) if item.options else -1
    parts = [item.text] if start < 0 else [item.text[:start], item.options, item.text[start + len(item.options) :]]
    counts = np.diff(hash_rows(parts).offsets)
    return np.repeat(np.arange(len(parts)) == 1, counts)


def benchmark_items(path: str) -> Iterator[Item]:
    """Read the items of a benchmark file of any kind: all its text columns, lists and objects joined.

    Names, labels and addresses (columns such as id, source, subject, category) are left out, and rows without text.

    Raises:
        DataError: the file cannot be read.
    """
    for number, row in enumerate(read_rows(path), start=1):
        if not isinstance(row, RawRow):
            continue
        text = "\n".join(_texts(row.values))
        if text:
            yield Item(_item_id(row, number), text, _options_text(row.values))


def _options_text(values: Mapping[str, object]) -> str:
    """The options of a row as they stand in its text; "" where they have no column, or several apart."""
    column = find_column(values, *OPTION_COLUMNS)
    columns = [column] if column is not None else letter_columns(values)
    return "\n".join(_texts({name: values[name] for name in columns}))


def _item_id(row: RawRow, number: int) -> str:
    column = find_column(row.values, *_ID_COLUMNS)
    value = row.values[column] if column is not None else None
    if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()
    return row.source or f"row {number}"


def _texts(value: object, column: str = "") -> Iterator[str]:
    """All texts of a cell, however deep; cells of names and labels give none."""
    if is_null(value) or column.strip().lower() in _NOT_TEXT:
        return
    value = parsed_cell(value)
    if isinstance(value, str):
        if any(character.isalpha() for character in value):
            yield value
    elif isinstance(value, Mapping):
        for key, cell in value.items():
            yield from _texts(cell, str(key))
    elif isinstance(value, (list, tuple, np.ndarray)):
        for cell in value:
            yield from _texts(cell)


def _batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Gather pairs of a name and a text until there are many, or their texts are long."""
    batch: list[Pair] = []
    num_characters = 0
    for pair in pairs:
        batch.append(pair)
        num_characters += len(pair[1])
        if len(batch) >= _BATCH_ROWS or num_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def _excerpt(text: str, place: int, num_words: int) -> str:
    """Words of a text as it writes them; in folded form where folding changes its length."""
    starts, ends = locate_words(text)
    folded = fold(text)
    shown = text if len(folded) == len(text) else folded
    found = " ".join(shown[starts[place] : ends[place + num_words - 1]].split())
    return found if len(found) <= _EXCERPT_CHARACTERS else found[: _EXCERPT_CHARACTERS - 1] + "…"
