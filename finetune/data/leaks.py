"""Looks for test items and public benchmark items in the training rows, and fills the ledger. Called by read.py."""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import DataConfig
from finetune.data.check import Ledger
from finetune.data.convert.choices import option_lines
from finetune.errors import DataError
from finetune.records import Conversation, Message, Splits

if TYPE_CHECKING:
    from finetune.data.likeness.contamination import Item

logger = logging.getLogger(__name__)

_EXAMPLES_KEPT = 3
_MOST_CHARACTERS = 8_000_000
"""Of larger sets an even part is looked at: all words of these items are held in memory, some 15 bytes a character."""


def check_contamination(splits: Splits, data: DataConfig, ledger: Ledger) -> None:
    """Count the items of the test split and of each benchmark file of which a long run of words is trained on.

    Raises:
        DataError: more of the test items than `data.max_contaminated_share` are, or a benchmark file cannot be read.
    """
    if not data.contamination_words:
        return
    from finetune.data.likeness.contamination import Item, benchmark_items

    sets: dict[str, Callable[[], Iterable[Item]]] = {}
    if len(splits.test):
        sets["test"] = lambda: (
            Item(row.item_id, item_text(row), option_lines(list(row.options))) for row in splits.test
        )
    for path in data.contamination_paths:
        sets[path] = lambda path=path: benchmark_items(path)
    for name, items in sets.items():
        ledger.contamination[name] = entry = _measure(items, splits.train, data.contamination_words)
        share, shown = entry["share"], name if name == "test" else Path(name).name
        if entry["contaminated"] and name != "test":
            logger.warning(
                "%s: %d of %d items stand in the training rows (%d words in a row or more); a score on it means little",
                *(shown, entry["contaminated"], entry["items"], data.contamination_words),
            )
        if name == "test" and share > data.max_contaminated_share:
            raise DataError(
                f"{100 * share:.1f} % of the test items ({entry['contaminated']} of {entry['items']}) share at least "
                f"{data.contamination_words} words in a row with a training row (first: {entry['examples'][0]['item']} "
                f"and {entry['examples'][0]['source']}), more than data.max_contaminated_share="
                f"{data.max_contaminated_share:g} allows. Split by document (data.group=…) or raise the limit"
            )


def _measure(items: "Callable[[], Iterable[Item]]", training: Sequence[Conversation], words: int) -> dict[str, Any]:
    from finetune.data.likeness.contamination import find_contamination

    lengths = [len(item.text) for item in items()]
    step = -(-sum(lengths) // _MOST_CHARACTERS) or 1
    num_items = len(lengths[::step])
    overlaps = find_contamination(itertools.islice(items(), 0, None, step), _TrainingTexts(training), words=words)
    longest = sorted(overlaps, key=lambda overlap: -overlap.longest_match_words)
    return {
        "items": num_items,
        "items_not_compared": len(lengths) - num_items,
        "contaminated": len(overlaps),
        "share": round(len(overlaps) / max(num_items, 1), 6),
        "longest_match_words": longest[0].longest_match_words if longest else 0,
        "examples": [
            {
                "item": overlap.item_id,
                "source": overlap.source,
                "words": overlap.longest_match_words,
                "excerpt": overlap.excerpt,
            }
            for overlap in longest[:_EXAMPLES_KEPT]
        ],
        "item_ids": [overlap.item_id for overlap in overlaps],
    }


class _TrainingTexts:
    """The training rows as (source, text), which can be gone through more than once."""

    def __init__(self, training: Sequence[Conversation]) -> None:
        self._training = training

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((row.source, item_text(row)) for row in self._training)


def item_text(conversation: Conversation) -> str:
    """Write all that a row says, without roles."""
    if conversation.text is not None:
        return conversation.text
    said = (text for turn in conversation.messages if turn.role != "system" for text in _said(turn))
    return "\n".join(said)


def _said(turn: Message) -> tuple[str, ...]:
    return (turn.reasoning_content, turn.content) if turn.reasoning_content else (turn.content,)
