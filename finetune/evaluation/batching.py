"""Batches of similar length, and the progress of working through them; `scorers` uses it."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from finetune import progress
from finetune.errors import ResourceError
from finetune.model.hardware import is_out_of_memory, release_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(slots=True)
class Fitting:
    """Runs batches in as many parts as memory asks for; what one batch needed is kept for the later ones."""

    num_parts: int = 1

    def run(self, batch: Sequence[int], work: Callable[[Sequence[int]], Sequence[Result]]) -> list[Result]:
        """Return the results of `work` for a batch of indices, in order.

        Raises:
            ResourceError: a single row does not fit into memory.
        """
        while True:
            size = -(-len(batch) // self.num_parts)
            parts = [batch[first : first + size] for first in range(0, len(batch), size)]
            try:
                return [result for part in parts for result in work(part)]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            if size == 1:
                raise ResourceError(
                    "out of memory evaluating a single row: lower training.max_length or evaluation.max_new_tokens, or "
                    "end other programs that use this memory"
                )
            self.num_parts *= 2
            logger.warning("out of memory evaluating %d rows at once: batches in %d parts", size, self.num_parts)
            release_memory()


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
