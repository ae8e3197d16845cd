"""Progress of long work: a bar on a terminal, a log line now and then elsewhere. Used by every room."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from finetune.log import duration, is_main_process

logger = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 30.0
_PATIENCE_SECONDS = 1.0

Item = TypeVar("Item")


def track(
    items: Iterable[Item],
    label: str | None,
    *,
    total: int | None = None,
    unit: str = "items",
    size: Callable[[Item], int] = lambda item: 1,
) -> Iterator[Item]:
    """Yield the items and show how far the work is, with its rate and, if `total` is known, the time left.

    `size` tells how many units an item is; `label` None shows nothing. On a terminal a bar appears on standard error
    after a second and is gone at the end; elsewhere a log line is written every 30 seconds.
    """
    if label is None or not is_main_process():
        yield from items
    elif sys.stderr.isatty():
        yield from _with_bar(items, label, total, unit, size)
    else:
        yield from _with_lines(items, label, total, unit, size)


def _with_lines(
    items: Iterable[Item], label: str, total: int | None, unit: str, size: Callable[[Item], int]
) -> Iterator[Item]:
    started = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += size(item)
        now = time.monotonic()
        if now - last > LOG_EVERY_SECONDS and done != total:
            last = now
            rate = done / (now - started)
            if total is None:
                logger.info("%s: %s %s, %s a second", label, f"{done:,}", unit, f"{rate:,.0f}")
            else:
                left = duration((total - done) / max(rate, 1e-9))
                logger.info("%s: %s of %s %s, about %s left", label, f"{done:,}", f"{total:,}", unit, left)


def _with_bar(
    items: Iterable[Item], label: str, total: int | None, unit: str, size: Callable[[Item], int]
) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    bar: Progress | None = None
    task = None
    started = time.monotonic()
    done = 0
    try:
        for item in items:
            yield item
            done += size(item)
            seconds = time.monotonic() - started
            if bar is None and seconds > _PATIENCE_SECONDS:
                bar = Progress(*columns, console=Console(stderr=True), transient=True)
                task = bar.add_task(label, total=total, rate="")
                bar.start()
            if bar is not None and task is not None:
                bar.update(task, completed=done, rate=f"{done / seconds:,.1f} {unit}/s")
    finally:
        if bar is not None:
            bar.stop()
