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


SHARED_PROMPTS_SAVE_TOKENS = 512
"""Common prompts are run on their own where a batch saves so many tokens; less is not worth two forward passes."""
SHARED_PROMPTS_BATCHES = 4
"""Keys and values of all continuations together, in batches' worth of tokens, at most; bounds memory."""


@dataclass(slots=True)
class _SharedBatch:
    """Rows whose prompts are run once each; lengths in tokens."""

    rows: list[int]
    num_prompts: int
    prompt: int
    answer: int
    saved: int

    def fits(self, batch_tokens: int) -> bool:
        return (
            (self.num_prompts == 1 or self.num_prompts * self.prompt <= batch_tokens)
            and len(self.rows) * self.answer <= batch_tokens
            and len(self.rows) * (self.prompt + self.answer) <= SHARED_PROMPTS_BATCHES * batch_tokens
        )

    def __add__(self, other: "_SharedBatch") -> "_SharedBatch":
        return _SharedBatch(
            self.rows + other.rows,
            self.num_prompts + other.num_prompts,
            max(self.prompt, other.prompt),
            max(self.answer, other.answer),
            self.saved + other.saved,
        )


def share_prompts(prompts: Sequence[tuple[int, ...]], lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group indices of rows whose prompt others have too, so that each batch runs every prompt once.

    `prompts` are the rows' first tokens, `lengths` whole rows in tokens. A batch holds prompts of similar length, the
    longest first; the prompts (a single one may exceed it) and their continuations keep within `batch_tokens` each.
    Rows that stand in no batch are better run whole.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(index)
    batches: list[_SharedBatch] = []
    for prompt in sorted(groups, key=lambda prompt: (-len(prompt), groups[prompt][0])):
        rows = groups[prompt]
        answer = max(lengths[index] for index in rows) - len(prompt)
        one = _SharedBatch(rows, 1, len(prompt), answer, (len(rows) - 1) * len(prompt))
        if one.saved == 0 or not one.fits(batch_tokens):
            continue
        if batches and (both := batches[-1] + one).fits(batch_tokens):
            batches[-1] = both
        else:
            batches.append(one)
    return [batch.rows for batch in batches if batch.saved >= SHARED_PROMPTS_SAVE_TOKENS]


def track(batches: Sequence[list[int]], num_items: int, label: str | None) -> Iterator[list[int]]:
    """Yield the batches behind a progress bar; see `finetune.progress.track`."""
    return progress.track(batches, label, total=num_items, size=len)
