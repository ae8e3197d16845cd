"""Batches of similar length, and the progress of working through them; `scorers` uses it."""

import logging
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from finetune.log import duration

logger = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 30.0


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
    """Yield the batches behind a progress bar on stderr, or a log line every 30 seconds where that is no terminal."""
    terminal = sys.stderr.isatty()
    started = last = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    hidden = label is None or not terminal
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as bar:
        task = bar.add_task(label or "", total=num_items)
        done = 0
        for batch in batches:
            yield batch
            done += len(batch)
            bar.update(task, completed=done)
            now = time.monotonic()
            if label is not None and not terminal and done < num_items and now - last > LOG_EVERY_SECONDS:
                last = now
                left = (now - started) / done * (num_items - done)
                logger.info("%s: %d of %d items, about %s left", label, done, num_items, duration(left))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} items/s" if task.speed else "")
