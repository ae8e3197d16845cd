"""Divides conversations into train, validation and test by group; cuts texts into passages. Called by read.py."""

import random
from dataclasses import replace

from finetune.errors import DataError
from finetune.records import Conversation, Splits

LONGEST_PASSAGE, SHORTEST_PASSAGE = 2000, 200
"""Characters of the passages that texts are cut into where there are too few documents to split."""
PASSAGES_WANTED = 20
"""A short text is cut finer, into about so many."""

_BREAKS = ("\n\n", "\n", ". ", " ")


def split_conversations(
    conversations: list[Conversation],
    *,
    validation_share: float,
    test_share: float,
    seed: int,
    need_validation: bool = True,
    need_test: bool = True,
) -> Splits:
    """Set whole groups aside for test and validation; deterministic by seed, each split keeps the given order.

    Groups are shuffled with the seed; test, then validation, take each group that still fits their share, and at least
    one group. A share of 0, or `need_…` false (the user has a file for it), leaves that split empty.

    Raises:
        DataError: there are fewer groups than splits.
    """
    sizes: dict[str, int] = {}
    for conversation in conversations:
        sizes[conversation.cluster] = sizes.get(conversation.cluster, 0) + 1
    wanted = {
        "test": test_share if need_test else 0.0,
        "validation": validation_share if need_validation else 0.0,
    }
    wanted = {name: share for name, share in wanted.items() if share > 0}
    if len(sizes) < len(wanted) + 1:
        raise DataError(_too_few(len(conversations), len(sizes), [*wanted]))
    order = list(sizes)
    random.Random(seed).shuffle(order)
    side: dict[str, str] = {}
    for number, (name, share) in enumerate(wanted.items()):
        reserved = len(wanted) - number
        for cluster in _take(order, sizes, max(1, round(share * len(conversations))), reserved):
            side[cluster] = name
        order = [cluster for cluster in order if cluster not in side]
    parts: dict[str, list[Conversation]] = {"train": [], "validation": [], "test": []}
    for conversation in conversations:
        parts[side.get(conversation.cluster, "train")].append(conversation)
    return Splits(**parts)


def _take(order: list[str], sizes: dict[str, int], target: int, reserved: int) -> list[str]:
    """Choose groups of `target` items together, leaving at least `reserved` groups; the smallest one if none fits."""
    taken: list[str] = []
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
