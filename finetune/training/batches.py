"""Examples grouped into micro-batches: packed rows of whole documents, or padded rows; `steps` and the trainer use it.

Legend: B rows of a micro-batch, T tokens of a row.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finetune.data.examples import lengths_of
from finetune.data.pack import pack
from finetune.model.packed_attention import make_buckets
from finetune.records import Example

IGNORED = -100
"""Label of a token that carries no loss."""


@dataclass(frozen=True, slots=True)
class MicroBatches:
    """Examples and the micro-batches that they form, as lists of example indices."""

    examples: Sequence[Example]
    groups: list[list[int]]
    packed: bool

    def __len__(self) -> int:
        return len(self.groups)

    def num_tokens(self) -> int:
        """Real tokens over all micro-batches."""
        return sum(lengths_of(self.examples))

    def collate(self, group: int) -> dict[str, Any]:
        """Turn a micro-batch into model inputs with labels (-100 where there is no loss)."""
        return collate([self.examples[number] for number in self.groups[group]], packed=self.packed)

    def item_ids(self, numbers: Iterable[int]) -> list[str]:
        """Return the names of the rows that examples came from, each once."""
        return names_of(self.examples, numbers)


def names_of(examples: Sequence[Example], numbers: Iterable[int]) -> list[str]:
    """Return the names of the rows that examples came from, each once."""
    return list(dict.fromkeys(examples[number].item_id for number in numbers))


def make_micro_batches(examples: Sequence[Example], capacity_tokens: int, *, packed: bool) -> MicroBatches:
    """Group examples into micro-batches of at most `capacity_tokens` (padding included), each example once."""
    lengths = lengths_of(examples)
    groups = pack(lengths, capacity_tokens) if packed else group_padded(lengths, capacity_tokens)
    return MicroBatches(examples, groups, packed)


def collate(examples: Sequence[Example], *, packed: bool) -> dict[str, Any]:
    """Turn the examples of a micro-batch into model inputs with labels (-100 where there is no loss)."""
    return _packed_row(examples) if packed else _padded_rows(examples)


def group_padded(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Group indices of similar length so that rows x longest row <= `capacity` tokens; the longest come first."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        longest = lengths[groups[-1][0]] if groups else 0
        if groups and longest * (len(groups[-1]) + 1) <= capacity:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _labels(example: Example) -> list[int]:
    supervised = zip(example.input_ids, example.loss_mask, strict=True)
    labels = [token if carries_loss else IGNORED for token, carries_loss in supervised]
    labels[0] = IGNORED  # the first token has no predecessor; in a packed row it would be another document's
    return labels


def _packed_row(examples: Sequence[Example]) -> dict[str, Any]:
    lengths = [len(example.input_ids) for example in examples]
    return {
        "input_ids": torch.tensor([token for example in examples for token in example.input_ids])[None],
        "labels": torch.tensor([label for example in examples for label in _labels(example)])[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "document_buckets": make_buckets(lengths),
    }


def _padded_rows(examples: Sequence[Example]) -> dict[str, Any]:
    longest = max(len(example.input_ids) for example in examples)
    input_ids_BT = torch.zeros(len(examples), longest, dtype=torch.long)
    labels_BT = torch.full((len(examples), longest), IGNORED)
    attention_mask_BT = torch.zeros(len(examples), longest, dtype=torch.long)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids_BT[row, :length] = torch.tensor(example.input_ids)
        labels_BT[row, :length] = torch.tensor(_labels(example))
        attention_mask_BT[row, :length] = 1
    return {"input_ids": input_ids_BT, "labels": labels_BT, "attention_mask": attention_mask_BT}
