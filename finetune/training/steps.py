"""Which examples each optimizer step reads, and how a step is cut into micro-batches; used by `build` and the trainer.

What a step reads depends on training.batch_tokens, training.max_length, the seed and the number of processes alone:
a smaller micro-batch cuts the same examples more finely, and the step's gradient is the same sum in smaller parts.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.data.examples import lengths_of
from finetune.data.pack import pack
from finetune.records import Example
from finetune.training.batches import collate, group_padded, names_of

SHARE = "share"
"""Key under which a batch of the data loader keeps a `Share`."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one process reads in one optimizer step: rows of numbers of examples, and these examples by number."""

    rows: list[list[int]]
    examples: dict[int, Example]

    def num_supervised(self) -> int:
        """Tokens with loss; the first token of an example never has any."""
        return sum(example.num_supervised for example in self.examples.values())


@dataclass(frozen=True, slots=True)
class Steps:
    """The training examples as shares of optimizer steps; one share is one process's part of one step."""

    examples: Sequence[Example]
    lengths: list[int]
    """Tokens of each example."""
    shares: list[list[list[int]]]
    packed: bool
    """Whether the examples of a micro-batch stand in one row behind each other, or in padded rows."""

    def __len__(self) -> int:
        return len(self.shares)

    def num_tokens(self) -> int:
        """Real tokens of an epoch."""
        return sum(self.lengths)

    def longest(self) -> int:
        """Tokens of the longest example: no micro-batch can be smaller."""
        return max(self.lengths, default=0)

    def read(self, items: Sequence[dict[str, int]]) -> dict[str, Share]:
        """Read the one share that an item of the index data set names; the data loader's collator."""
        (item,) = items
        rows = self.shares[item[SHARE]]
        return {SHARE: Share(rows, {number: self.examples[number] for row in rows for number in row})}

    def micro_batches(self, rows: Sequence[Sequence[int]], capacity_tokens: int) -> list[list[int]]:
        """Cut a share into as few micro-batches of at most `capacity_tokens`, padding included, as are found.

        Rows stay whole where they fit.
        """
        numbers = [number for row in rows for number in row]
        lengths = [self.lengths[number] for number in numbers]
        if not self.packed:
            return [[numbers[place] for place in group] for group in group_padded(lengths, capacity_tokens)]
        packed_anew = [[numbers[place] for place in group] for group in pack(lengths, capacity_tokens)]
        whole_rows = self._joined(rows, capacity_tokens)
        return packed_anew if len(packed_anew) < len(whole_rows) else whole_rows

    def _joined(self, rows: Sequence[Sequence[int]], capacity: int) -> list[list[int]]:
        joined: list[list[int]] = []
        room = 0
        for row in rows:
            for part in pack([self.lengths[number] for number in row], capacity):
                size = sum(self.lengths[row[place]] for place in part)
                if not joined or size > room:
                    joined.append([])
                    room = capacity
                joined[-1] += [row[place] for place in part]
                room -= size
        return joined

    def num_micro_batches(self, capacity_tokens: int) -> int:
        """Count the micro-batches of an epoch."""
        return sum(len(self.micro_batches(rows, capacity_tokens)) for rows in self.shares)

    def collate(self, numbers: Sequence[int], share: Share) -> dict[str, Any]:
        """Turn a micro-batch of a share into model inputs with labels (-100 where there is no loss)."""
        return collate([share.examples[number] for number in numbers], packed=self.packed)

    def item_ids(self, numbers: Iterable[int]) -> list[str]:
        """Return the names of the rows that examples came from, each once."""
        return names_of(self.examples, numbers)


def plan_steps(
    examples: Sequence[Example], *, batch_tokens: int, max_length: int, num_processes: int, packed: bool, seed: int
) -> Steps:
    """Spread the examples over the steps of an epoch: whole rows, drawn with the seed, as evenly as can be.

    A row holds a power of two's part of a process's `batch_tokens`, at least twice `max_length` where that is there.
    """
    lengths = lengths_of(examples)
    tokens_of_share = max(batch_tokens // num_processes, max(lengths, default=1))
    rows_of_share = 1
    while tokens_of_share // (2 * rows_of_share) >= 2 * max_length:
        rows_of_share *= 2
    row_tokens = tokens_of_share // rows_of_share
    rows = pack(lengths, row_tokens) if packed else group_padded(lengths, row_tokens)
    num_shares = num_processes * math.ceil(len(rows) / (rows_of_share * num_processes))
    while len(rows) < num_shares and max(map(len, rows)) > 1:  # else some process would read a share twice
        largest = max(rows, key=len)
        rows.remove(largest)
        rows += [largest[::2], largest[1::2]]
    num_shares = min(num_shares, len(rows))
    if num_shares < len(rows):
        random.Random(seed).shuffle(rows)
    shares = [rows[first::num_shares] for first in range(num_shares)]
    return Steps(examples, lengths, shares, packed)
