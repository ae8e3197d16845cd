"""Batches of similar length, and the progress of working through them; `scorers` uses it."""

from collections.abc import Iterator, Sequence

from finetune import progress


def make_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group indices of similar length so that rows x longest row <= `batch_tokens` (one row may exceed it).

    The longest come first, so that a batch that does not fit into memory fails at once.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def track(batches: Sequence[list[int]], num_items: int, label: str | None) -> Iterator[list[int]]:
    """Yield the batches behind a progress bar; see `finetune.progress.track`."""
    return progress.track(batches, label, total=num_items, size=len)
