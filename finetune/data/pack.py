"""Fits documents into rows of a given number of tokens. Called by training/build.py."""

import bisect
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Distribute documents over as few bins as best-fit decreasing finds; returns each bin's indices into `lengths`.

    The longest document goes first, into the fullest bin that still has room; equal lengths keep their order. Every
    index stands in exactly one bin, and no bin holds more than `capacity` tokens. O(n log n) comparisons.

    Raises:
        ValueError: a document is longer than `capacity`, or has a negative length.
    """
    bins: list[list[int]] = []
    free: list[int] = []
    """Distinct amounts of room left, ascending."""
    bins_by_free: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if not 0 <= length <= capacity:
            raise ValueError(f"document {index} has {length} tokens; a bin holds 0 to {capacity}")
        place = bisect.bisect_left(free, length)
        if place == len(free):
            number, room = len(bins), capacity
            bins.append([])
        else:
            room = free[place]
            number = bins_by_free[room].pop()
            if not bins_by_free[room]:
                del bins_by_free[room], free[place]
        bins[number].append(index)
        left = room - length
        if left not in bins_by_free:
            bins_by_free[left] = []
            bisect.insort(free, left)
        bins_by_free[left].append(number)
    return bins
