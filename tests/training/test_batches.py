"""Micro-batches: every example once, no label across a border, packed and padded rows ask for the same predictions."""

import pytest
import torch

from finetune.records import Example
from finetune.training.batches import IGNORED, make_micro_batches


def example(length: int, *, prompt: int = 2, start: int = 10) -> Example:
    ids = list(range(start, start + length))
    return Example(
        item_id=str(start),
        input_ids=ids,
        loss_mask=[index >= prompt for index in range(length)],
        num_supervised_bytes=length,
    )


EXAMPLES = [example(length, start=10 * length) for length in (5, 9, 3, 7, 4, 8)]


@pytest.mark.parametrize("packed", [True, False])
def test_every_example_is_in_exactly_one_micro_batch_within_the_budget(packed: bool) -> None:
    batches = make_micro_batches(EXAMPLES, 16, packed=packed)
    assert sorted(index for group in batches.groups for index in group) == list(range(len(EXAMPLES)))
    for group in batches.groups:
        lengths = [len(EXAMPLES[index].input_ids) for index in group]
        assert (sum(lengths) if packed else len(lengths) * max(lengths)) <= 16
    assert batches.num_tokens() == sum(len(example.input_ids) for example in EXAMPLES)


@pytest.mark.parametrize("packed", [True, False])
def test_labels_are_the_supervised_tokens_and_no_first_token(packed: bool) -> None:
    batches = make_micro_batches([*EXAMPLES, example(6, prompt=0, start=900)], 16, packed=packed)
    predicted = []
    for group in range(len(batches)):
        labels_BT = batches.collate(group)["labels"]
        predicted += labels_BT[labels_BT != IGNORED].tolist()
    expected = [token for row in EXAMPLES for token in row.input_ids[2:]] + list(range(901, 906))
    assert sorted(predicted) == sorted(expected)


def test_positions_start_again_in_each_document() -> None:
    batches = make_micro_batches([example(3), example(2, start=50)], 16, packed=True)
    row = batches.collate(0)
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert row["input_ids"].tolist() == [[10, 11, 12, 50, 51]]
    assert row["labels"][0, 3] == IGNORED


def test_padding_is_masked() -> None:
    row = make_micro_batches([example(3), example(2, start=50)], 16, packed=False).collate(0)
    assert row["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert torch.equal(row["labels"] != IGNORED, torch.tensor([[False, False, True], [False, False, False]]))
