"""Steps: every example once, the same whatever the micro-batches' size; micro-batches cut a step and nothing else."""

import random

import pytest

from finetune.records import Example
from finetune.training.steps import SHARE, Steps, plan_steps

pytestmark = pytest.mark.bar("R8")

NUM_EXAMPLES = 3000
_generator = random.Random(1)
LENGTHS = [_generator.randint(5, 60) for _ in range(NUM_EXAMPLES)]


def example(number: int, length: int) -> Example:
    ids = list(range(length))
    mask = [index >= 2 for index in range(length)]
    return Example(item_id=f"item-{number}", input_ids=ids, loss_mask=mask, num_supervised_bytes=length)


EXAMPLES = [example(number, length) for number, length in enumerate(LENGTHS)]


def steps_of(batch_tokens: int = 960, *, processes: int = 1, packed: bool = True, seed: int = 0) -> Steps:
    return plan_steps(
        EXAMPLES, batch_tokens=batch_tokens, max_length=60, num_processes=processes, packed=packed, seed=seed
    )


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("batch_tokens", [60, 200, 960, 100_000])
def test_every_example_is_in_one_share_and_no_share_is_too_large(
    batch_tokens: int, processes: int, packed: bool
) -> None:
    steps = steps_of(batch_tokens, processes=processes, packed=packed)
    numbers = [number for rows in steps.shares for row in rows for number in row]
    assert sorted(numbers) == list(range(NUM_EXAMPLES)) and steps.num_tokens() == sum(LENGTHS)
    assert len(steps) % processes == 0 and all(steps.shares)
    sizes = [sum(LENGTHS[number] for row in rows for number in row) for rows in steps.shares]
    assert max(sizes) <= max(batch_tokens // processes, 60)


def test_a_packed_step_is_nearly_full() -> None:
    for batch_tokens in (240, 960, 3840):
        steps = steps_of(batch_tokens)
        assert steps.num_tokens() / len(steps) > 0.95 * batch_tokens


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("capacity", [60, 61, 120, 240, 480, 960, 5000])
def test_micro_batches_hold_the_whole_step_within_their_size(capacity: int, packed: bool) -> None:
    steps = steps_of(packed=packed)
    for rows in steps.shares:
        groups = steps.micro_batches(rows, capacity)
        assert sorted(n for group in groups for n in group) == sorted(n for row in rows for n in row)
        for group in groups:
            lengths = [LENGTHS[number] for number in group]
            assert (sum(lengths) if packed else len(lengths) * max(lengths)) <= capacity


def test_packed_micro_batches_of_a_fitting_size_are_nearly_full() -> None:
    steps = steps_of()
    for capacity in (120, 240, 480, 960):
        assert steps.num_tokens() / (steps.num_micro_batches(capacity) * capacity) > 0.95, capacity


def test_the_data_loaders_batch_holds_the_share_and_counts_its_supervised_tokens() -> None:
    steps = steps_of()
    share = steps.read([{SHARE: 1}])[SHARE]
    assert share.rows == steps.shares[1]
    counted = 0
    for group in steps.micro_batches(share.rows, 200):
        counted += int((steps.collate(group, share)["labels"] != -100).sum())
    assert counted == share.num_supervised() > 0


def test_the_seed_draws_the_steps() -> None:
    assert steps_of(seed=1).shares == steps_of(seed=1).shares != steps_of(seed=2).shares
