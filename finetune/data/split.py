"""Divides rows into train, validation and test by cluster; cuts texts into passages. Called by read.py."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from finetune.errors import DataError
from finetune.records import Conversation

LONGEST_PASSAGE, SHORTEST_PASSAGE = 2000, 200
"""Characters of the passages that texts are cut into where there are too few documents to split."""
PASSAGES_WANTED = 20
"""A short text is cut finer, into about so many."""

_BREAKS = ("\n\n", "\n", ". ", " ")


def draw(count: int, wanted: int, seed: int | str) -> list[int]:
    """Places of `wanted` of `count` rows, drawn with the seed, in ascending order; all where there are no more."""
    return sorted(random.Random(seed).sample(range(count), wanted)) if wanted < count else list(range(count))


def split_clusters(clusters: Sequence[int], shares: Mapping[str, float], *, seed: int) -> list[str]:
    """Name a split for each row: `train`, or one of `shares`, whose values are parts of all rows.

    `clusters` has one number per row; rows of one cluster stay together. Clusters are shuffled with the seed; each
    split of `shares` in turn takes the clusters that still fit its share, and at least one. A share of 0 leaves a split
    empty.

    Raises:
        DataError: there are fewer clusters than splits.
    """
    sizes = Counter(clusters)
    wanted = {name: share for name, share in shares.items() if share > 0}
    if len(sizes) < len(wanted) + 1:
        raise DataError(_too_few(len(clusters), len(sizes), [*wanted]))
    order = list(sizes)
    random.Random(seed).shuffle(order)
    side: dict[int, str] = {}
    for number, (name, share) in enumerate(wanted.items()):
        reserved = len(wanted) - number
        for cluster in _take(order, sizes, max(1, round(share * len(clusters))), reserved):
            side[cluster] = name
        order = [cluster for cluster in order if cluster not in side]
    return [side.get(cluster, "train") for cluster in clusters]


def _take(order: list[int], sizes: Mapping[int, int], target: int, reserved: int) -> list[int]:
    """Choose groups of `target` items together, leaving at least `reserved` groups; the smallest one if none fits."""
    taken: list[int] = []
    num_items = 0
    for cluster in order:
        if len(order) - len(taken) <= reserved or num_items >= target:
            break
        if num_items + sizes[cluster] <= target:
            taken.append(cluster)
            num_items += sizes[cluster]
    return taken or [min(order, key=lambda cluster: sizes[cluster])]


def _too_few(num_items: int, num_groups: int, wanted: list[str]) -> str:
    counted = f"{num_items} usable rows" + (f" in {num_groups} groups" if num_groups != num_items else "")
    keys = " and ".join(f"data.{name}_share=0" for name in reversed(wanted))
    files = " and ".join(f"data.{name}_path=…" for name in reversed(wanted))
    return (
        f"{counted} cannot be divided into train, {' and '.join(reversed(wanted))}: at least {len(wanted) + 1} "
        f"{'groups' if num_groups != num_items else 'rows'} are needed. Give more rows, files of their own ({files}), "
        f"or {keys} to go without"
    )


def cut_passages(documents: list[Conversation]) -> list[Conversation]:
    """Cut plain texts into passages named `file.txt#1`, …, which belong to no group."""
    num_characters = sum(len(document.answer) for document in documents)
    size = min(max(num_characters // PASSAGES_WANTED, SHORTEST_PASSAGE), LONGEST_PASSAGE)
    return [passage for document in documents for passage in _passages(document, size)]


def _passages(conversation: Conversation, size: int) -> list[Conversation]:
    pieces = cut_text(conversation.answer, size)
    return [
        replace(
            conversation,
            item_id=f"{conversation.item_id}#{number}",
            source=f"{conversation.source}#{number}",
            text=piece,
            group=None,
        )
        for number, piece in enumerate(pieces, start=1)
    ]


def cut_text(text: str, size: int) -> list[str]:
    """Cut a text into pieces of at most `size` characters, none of them only white space.

    Cuts stand after the last paragraph in the second half of a piece, else after the last line, sentence or word.
    White space at a piece's ends is dropped; nothing else is lost.
    """
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        if end < len(text):
            end = _last_break(text, start, end)
        piece = text[start:end].strip()
        if piece:
            pieces.append(piece)
        start = end
    return pieces


def _last_break(text: str, start: int, end: int) -> int:
    for mark in _BREAKS:
        place = text.rfind(mark, start + (end - start) // 2, end)
        if place >= 0:
            return place + len(mark)
    return end
