"""The usable rows of all files together, with what is known of each in a few bytes. Used by read.py.

Rows are numbered as they were read: test, validation, then training files. Legend: N rows.
"""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from finetune.data.store import Conversations, ConversationStore
from finetune.data.turn_text import calls_text
from finetune.records import Conversation, Rejection

_NAMES = ("{source}", "{split}/{source}", "{split}/{source}~{row}")
"""What replaces an item id that stands twice, tried in this order."""


@dataclass(slots=True)
class Rows:
    """Conversations of all files in a store, and columns of eight-byte hashes beside it."""

    store: ConversationStore = field(default_factory=ConversationStore)
    labels: list[str] = field(default_factory=list)
    """Names of the sources, such as `train` or `train[2]`; they begin with their split."""
    dropped: bytearray = field(default_factory=bytearray)
    """1 for a row that was rejected or not drawn after it had been read."""
    names: dict[int, str] = field(default_factory=dict)
    groups: dict[int, str] = field(default_factory=dict)
    """Group of rows that are related to others, by row."""
    _origin: "array[int]" = field(default_factory=lambda: array("H"))
    _content: "array[int]" = field(default_factory=lambda: array("Q"))
    """Two numbers a row."""
    _cluster: "array[int]" = field(default_factory=lambda: array("Q"))
    _id: "array[int]" = field(default_factory=lambda: array("Q"))
    _source: "array[int]" = field(default_factory=lambda: array("Q"))

    def __len__(self) -> int:
        return len(self.store)

    def add(self, conversation: Conversation, origin: int) -> None:
        """Append a row of the source with this number."""
        number = self.store.add(conversation)
        assert number == len(self.dropped)
        self.dropped.append(0)
        self._origin.append(origin)
        digest = content_digest(conversation)
        self._content.extend((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")))
        group = conversation.group
        self._cluster.append(hash64(f"g{group}") if group is not None else hash64(f"i{origin}/{number}"))
        self._id.append(hash64(conversation.item_id))
        self._source.append(hash64(conversation.source))

    def read(self, row: int) -> Conversation:
        """Read a row as it stands in the store."""
        return self.store.read(row)

    def label(self, row: int) -> str:
        """Name the source of a row."""
        return self.labels[self._origin[row]]

    def split(self, row: int) -> str:
        """Name the split that a row's file is for."""
        return split_of(self.label(row))

    def kept(self, label: str | None = None) -> "np.ndarray[Any, Any]":
        """Numbers of the rows that are not dropped: all, or those of a split (`train`) or a source (`train[2]`)."""
        alive_N = np.frombuffer(self.dropped, dtype=np.uint8) == 0
        if label is not None:
            wanted = [number for number, name in enumerate(self.labels) if label in (name, split_of(name))]
            alive_N &= np.isin(np.asarray(self._origin, dtype=np.int64), wanted)
        return np.flatnonzero(alive_N)

    def drop(self, row: int) -> None:
        """Leave a row out from now on."""
        self.dropped[row] = 1

    def first_equals(self) -> "np.ndarray[Any, Any]":
        """For each row the number of the first row with the same content: its own, unless it repeats one."""
        content_N2 = np.asarray(self._content, dtype=np.uint64).reshape(-1, 2)
        order_N = np.lexsort((content_N2[:, 1], content_N2[:, 0]))  # stable: equal rows keep their order
        sorted_N2 = content_N2[order_N]
        starts_N = np.ones(len(order_N), dtype=bool)
        starts_N[1:] = np.any(sorted_N2[1:] != sorted_N2[:-1], axis=1)
        first_N = np.empty(len(order_N), dtype=np.int64)
        first_N[order_N] = order_N[np.flatnonzero(starts_N)[np.cumsum(starts_N) - 1]] if len(order_N) else 0
        return first_N

    def cluster_numbers(self, rows_N: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Number the clusters of rows in order of their first row: rows of one group, and related rows, share one."""
        hashes_N = np.asarray(self._cluster, dtype=np.uint64)[rows_N]
        for position, row in enumerate(rows_N.tolist() if self.groups else ()):
            if row in self.groups:
                hashes_N[position] = hash64(f"g{self.groups[row]}")
        _, first_C, inverse_N = np.unique(hashes_N, return_index=True, return_inverse=True)
        rank_C = np.empty(len(first_C), dtype=np.int64)
        rank_C[np.argsort(first_C)] = np.arange(len(first_C))
        return rank_C[inverse_N]

    def clusters_of(self, label: str) -> "np.ndarray[Any, Any]":
        """Hashes of the groups that the rows of a split or source belong to."""
        return np.asarray(self._cluster, dtype=np.uint64)[self.kept(label)]

    def make_ids_unique(self) -> None:
        """Replace ids that stand twice by the rows' sources, and those by split and source."""
        names_N = np.asarray(self._id, dtype=np.uint64).copy()
        sources_N = np.asarray(self._source, dtype=np.uint64)
        kept = self.kept()
        for pattern in _NAMES:
            _, inverse_K, counts = np.unique(names_N[kept], return_inverse=True, return_counts=True)
            twice = kept[counts[inverse_K] > 1]
            if not len(twice):
                return
            for row in twice.tolist():
                source = self.read(row).source
                self.names[row] = pattern.format(split=self.split(row), source=source, row=row)
                names_N[row] = sources_N[row] if pattern == "{source}" else hash64(self.names[row])

    def view(self, rows: "np.ndarray[Any, Any]") -> Conversations:
        """Return some rows as conversations, in the given order."""
        numbers = array("q")
        numbers.frombytes(rows.astype(np.int64).tobytes())
        return Conversations(self.store, numbers, self.names, self.groups, self.label)


def split_of(label: str) -> str:
    """Name the split of a source's label: `train[2]` is a part of `train`."""
    return label.partition("[")[0]


def hash64(text: str) -> int:
    """Return eight bytes of BLAKE2b as a number."""
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def content_digest(conversation: Conversation) -> bytes:
    """Return sixteen bytes that are equal for rows of equal content, whatever their ids and sources."""
    parts = [conversation.text or "", conversation.tools or ""]
    for message in conversation.messages:
        parts += [message.role, message.reasoning_content or "", message.content, calls_text(message)]
    return blake2b("\x1e".join(parts).encode(), digest_size=16).digest()


def content_of(conversation: Conversation) -> str:
    """Write a row's content for rejected.jsonl, at most 10,000 characters."""
    if conversation.text is not None:
        return conversation.text[:10_000]
    return "\n".join(f"{turn.role}: {turn.content}" for turn in conversation.messages)[:10_000]


def rejection_of(conversation: Conversation, reason: str, detail: str) -> Rejection:
    """Make the rejection of a row that had been read."""
    return Rejection(source=conversation.source, reason=reason, detail=detail, content=content_of(conversation))


def count_labels(rows: Rows, numbers: "np.ndarray[Any, Any]") -> Counter[str]:
    """Count rows by source."""
    return Counter(rows.label(row) for row in numbers.tolist())
