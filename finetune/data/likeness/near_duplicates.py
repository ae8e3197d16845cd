"""Finds rows that nearly repeat an earlier row, and rows that share a long passage. Called by read.py.

MinHash signatures (Broder 1997) of the rows' word pairs, by rensa, are sorted as in an LSH forest (Bawa, Condie and
Ganesan 2005): rows that stand side by side in one of 42 orders are candidates, and candidates are compared word by
word. Memory: 50 bytes a row and a few MB; the signatures lie in an anonymous temporary file.
"""

import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.data.likeness.minhash_bands import NUM_BANDS, BandFile, Candidates
from finetune.data.likeness.prepared_rows import PreparedRow, RowPreparer, split_sentences
from finetune.data.likeness.row_differences import Relation, compare_rows
from finetune.data.likeness.vocabulary import Vocabulary
from finetune.data.turn_text import turn_text
from finetune.records import Conversation

RELATED_PER_ROW = 3
"""With so many related rows found, the search for a nearer one ends."""

_BATCH_ROWS, _BATCH_CHARACTERS = 2048, 1 << 20
_TEMPLATE_SHARE, _FEWEST_TEMPLATE_ROWS = 0.05, 50
_SENTENCE_CHARACTERS = 40
_COUNTERS = 1 << 20
_KEPT_SIZE = 2_000_000


@dataclass(frozen=True, slots=True)
class Match:
    """Row `row` says the same as the earlier row `like`, which is no repetition itself; `similarity` of its words."""

    row: int
    like: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Related:
    """Row `row` shares a long passage with the earlier row `like`, but asks or answers something else."""

    row: int
    like: int


class NearDuplicateFinder:
    """Takes rows one by one, then finds near-duplicates among them; deterministic by seed.

    Two rows are near-duplicates when they have at least `similarity` of their words in common, in their order, and
    none of the differences changes what is asked or answered: see `row_differences.compare_rows`.
    """

    def __init__(self, similarity: float, seed: int = 0) -> None:
        self._similarity = similarity
        self._bands = BandFile(seed)
        self._sentences = _SentenceCounter()
        self._vocabulary = Vocabulary()
        self._texts: list[str] = []
        self._num_characters = 0
        self._templates: frozenset[str] | None = None

    def add(self, conversation: Conversation) -> None:
        """Take the next row; its number is the count of rows before it."""
        text = _whole_text(conversation)
        self._sentences.add(text)
        self._texts.append(text)
        self._num_characters += len(text)
        if len(self._texts) >= _BATCH_ROWS or self._num_characters >= _BATCH_CHARACTERS:
            self._sign()

    def find(self, read: Callable[[int], Conversation]) -> tuple[list[Match], list[Related]]:
        """Compare likely pairs; earlier rows win. `read(number)` gives a row again.

        A row is compared with kept rows only, and with at most `CANDIDATES_PER_ROW` of them. Rows related with a
        near-duplicate are related with the row that it repeats.
        """
        self._sign()
        prepared = _PreparedRows(read, self._sentences)
        candidates = Candidates(self._bands.num_rows)
        for band in range(NUM_BANDS):
            candidates.add_neighbours(*self._bands.ordered(band))
        candidates.drop_unlikely(map(self._bands.keys, range(NUM_BANDS)))
        matches: list[Match] = []
        related: list[Related] = []
        repeats: dict[int, int] = {}
        for row in candidates.rows():
            earlier = dict.fromkeys(repeats.get(other, other) for other in candidates.of(row))
            links: list[Related] = []
            for like in earlier:
                relation, share = compare_rows(
                    prepared.get(like), prepared.get(row), self._similarity, self._vocabulary.is_slip
                )
                if relation is Relation.same:
                    matches.append(Match(row, like, share))
                    repeats[row] = like
                    links = []
                    break
                if relation is Relation.related:
                    links.append(Related(row, like))
                    if len(links) == RELATED_PER_ROW:
                        break
            related += links
        return matches, related

    def _sign(self) -> None:
        """Sign the rows that wait. The first batch tells which sentences are templates, to be left out."""
        texts = self._texts
        if not texts:
            return
        if self._templates is None:
            self._templates = _frequent_sentences(texts)
        if self._templates:
            texts = [_without(text, self._templates) for text in texts]
        self._vocabulary.add(self._bands.add(texts))
        self._texts, self._num_characters = [], 0


class _SentenceCounter:
    """Counts how many rows hold a long sentence, by hash: one of many rows is a template of the data set."""

    def __init__(self) -> None:
        self._counts = np.zeros(_COUNTERS, dtype=np.uint32)
        self._num_rows = 0

    def add(self, text: str) -> None:
        """Count each long sentence of a row once."""
        self._num_rows += 1
        for place in {_hash(sentence) for sentence in _long_sentences(text)}:
            self._counts[place] += 1

    def is_template(self, sentence: str) -> bool:
        """Whether more than 5 % of the rows (and more than 50) hold this sentence."""
        if len(sentence) < _SENTENCE_CHARACTERS:
            return False
        return self._counts[_hash(sentence)] > max(_FEWEST_TEMPLATE_ROWS, _TEMPLATE_SHARE * self._num_rows)


class _PreparedRows:
    """Rows ready for comparison, the last ones kept."""

    def __init__(self, read: Callable[[int], Conversation], sentences: _SentenceCounter) -> None:
        self._read = read
        self._preparer = RowPreparer(sentences.is_template)
        self._kept: OrderedDict[int, tuple[PreparedRow, int]] = OrderedDict()
        self._size = 0

    def get(self, number: int) -> PreparedRow:
        """Read and prepare a row, unless it was among the last ones."""
        row, known_size = self._kept.pop(number, (None, 0))
        if row is None:
            row = self._preparer.prepare(self._read(number))
        self._kept[number] = row, row.size
        self._size += row.size - known_size
        while self._size > _KEPT_SIZE and len(self._kept) > 2:
            self._size -= self._kept.popitem(last=False)[1][1]
        return row


def _whole_text(conversation: Conversation) -> str:
    if conversation.text is not None:
        return conversation.text
    return "\n".join(turn_text(message) for message in conversation.messages)


def _hash(sentence: str) -> int:
    return zlib.crc32(sentence.encode("utf-8", "surrogatepass")) % _COUNTERS


def _long_sentences(text: str) -> Iterable[str]:
    return (sentence for sentence in split_sentences(text) if len(sentence) >= _SENTENCE_CHARACTERS)


def _frequent_sentences(texts: Sequence[str]) -> frozenset[str]:
    """Sentences of so many of these rows that they are templates."""
    counts = Counter(sentence for text in texts for sentence in set(_long_sentences(text)))
    least = max(_FEWEST_TEMPLATE_ROWS, _TEMPLATE_SHARE * len(texts))
    return frozenset(sentence for sentence, count in counts.items() if count > least)


def _without(text: str, templates: frozenset[str]) -> str:
    """Leave template sentences out; a row that has nothing else keeps them."""
    kept = [sentence for sentence in split_sentences(text) if sentence not in templates]
    return "\n".join(kept) if any(kept) else text
