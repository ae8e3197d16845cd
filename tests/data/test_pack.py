"""Packing: every document once, no bin over capacity, few bins."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.pack import pack


@given(st.lists(st.integers(0, 100)), st.integers(100, 300))
def test_every_index_once_and_no_bin_over_capacity(lengths: list[int], capacity: int) -> None:
    bins = pack(lengths, capacity)
    assert sorted(index for items in bins for index in items) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in items) <= capacity for items in bins)
    assert pack(lengths, capacity) == bins


@given(st.lists(st.integers(1, 100), min_size=1))
def test_no_two_bins_could_be_one(lengths: list[int]) -> None:
    loads = sorted(sum(lengths[index] for index in items) for items in pack(lengths, 100))
    assert len(loads) < 2 or loads[0] + loads[1] > 100


def test_takes_the_fullest_bin_that_has_room() -> None:
    assert pack([6, 5, 5, 4, 3], 10) == [[0, 3], [1, 2], [4]]


def test_equal_lengths_keep_their_order() -> None:
    assert pack([3, 3, 3, 3], 6) == [[0, 1], [2, 3]]


@pytest.mark.parametrize("length", [11, -1])
def test_impossible_lengths(length: int) -> None:
    with pytest.raises(ValueError, match=f"document 1 has {length} tokens; a bin holds 0 to 10"):
        pack([3, length], 10)


def test_a_hundred_thousand_documents_take_under_two_seconds() -> None:
    started = time.monotonic()
    bins = pack([(number * 7919) % 2000 + 1 for number in range(100_000)], 2048)
    assert time.monotonic() - started < 2
    assert len(bins) < 50_500
