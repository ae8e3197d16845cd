"""Drops rows that repeat others, and keeps related rows on one side of a split. Called by read.py."""

import logging
from collections import Counter

from finetune.config import DataConfig, NearDuplicates
from finetune.data.check import Ledger
from finetune.data.rows import Rows, rejection_of
from finetune.progress import track
from finetune.records import Conversation

logger = logging.getLogger(__name__)

_LARGEST_RELATED_SHARE = 0.2
"""Where more of a split's rows than this are related with one another (a long instruction that all share), keeping them
together would leave nothing to split; they are then treated as unrelated."""


def drop_exact(rows: Rows, ledger: Ledger) -> None:
    """Keep the first of equal rows: of rows equal across files test before validation before train."""
    for row, first in enumerate(rows.first_equals().tolist()):
        if first != row:
            across = rows.split(first) != rows.split(row)
            ledger.duplicates["across_splits" if across else "exact"] += 1
            conversation = rows.read(row)
            _drop(rows, ledger, row, conversation, "exact_duplicate", f"the same as {rows.read(first).source}")


def drop_near(rows: Rows, data: DataConfig, seed: int, ledger: Ledger) -> None:
    """Find rows that nearly repeat others; drop or keep them as `data.near_duplicates` says.

    Rows that share most of their text with another one, but not question and answer (several questions about one
    contract), are kept and given a common group, so that a split drawn later does not part them, and statistics count
    them as one cluster. With `report`, so are near-duplicates; so are those within the user's own test or validation
    file in any case.
    """
    if data.near_duplicates is NearDuplicates.ignore:
        return
    from finetune.data.likeness.near_duplicates import NearDuplicateFinder

    kept = rows.kept()
    finder = NearDuplicateFinder(data.near_duplicate_similarity, seed=seed)
    for row in track(kept.tolist(), "near-duplicates: reading", total=len(kept), unit="rows"):
        finder.add(rows.read(row))
    matches, related = finder.find(lambda place: rows.read(int(kept[place])))
    pairs = [(int(kept[pair.row]), int(kept[pair.like])) for pair in related]
    for match in matches:
        row, like = int(kept[match.row]), int(kept[match.like])
        across = rows.split(like) != rows.split(row)
        ledger.duplicates["across_splits" if across else "near"] += 1
        is_held_out = rows.split(row) != "train" and not across  # two items of the user's own test file: both count
        if data.near_duplicates is NearDuplicates.report or is_held_out:
            pairs.append((row, like))
            continue
        detail = f"{100 * match.similarity:.0f} % the same as {rows.read(like).source}"
        _drop(rows, ledger, row, rows.read(row), "near_duplicate", detail)
    _keep_together(rows, [pair for pair in pairs if not rows.dropped[pair[0]]], ledger)


def _drop(rows: Rows, ledger: Ledger, row: int, conversation: Conversation, reason: str, detail: str) -> None:
    rows.drop(row)
    ledger.reject(rejection_of(conversation, reason, detail), rows.label(row))


def _keep_together(rows: Rows, pairs: list[tuple[int, int]], ledger: Ledger) -> None:
    """Give related rows of a split the group of the first of them; groups of the user's own file are joined."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.get(row, row) != row:
            parent[row] = parent.get(parent[row], parent[row])
            row = parent[row]
        return row

    for row, like in pairs:
        if rows.split(row) == rows.split(like):
            first, second = sorted((root(row), root(like)))
            parent.setdefault(first, first)
            parent[second] = first
    members = {row: root(row) for row in parent}
    ledger.related_rows = len(members)
    sizes = Counter(members.values())
    too_large = {
        first for first, size in sizes.items() if size > _LARGEST_RELATED_SHARE * len(rows.kept(rows.split(first)))
    }
    if too_large:
        most = max(sizes[first] for first in too_large)
        logger.info("%d rows share most of their text; a split may part them (see data.group)", most)
        members = {row: first for row, first in members.items() if first not in too_large}
    names: dict[int, str] = {}
    for row, first in members.items():
        if first not in names:
            conversation = rows.read(first)
            names[first] = conversation.group or f"like {conversation.source}"
        rows.groups[row] = names[first]
