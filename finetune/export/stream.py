"""Computes blocks on a few threads and hands them out in order; used by the writers of export formats.

Reading, rounding and quantising release the interpreter's lock, so that threads suffice. Memory: a block for each
thread, and as many again that wait to be written.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

Block = bytes | bytearray | memoryview

MOST_THREADS = 8
"""More threads wait for the disk."""


def in_order(tasks: Iterable[Callable[[], Block]], num_threads: int | None = None) -> Iterator[Block]:
    """Run the tasks on `num_threads` threads (default: one for each core, at most 8), and yield results in order.

    At most twice as many tasks as threads are under way or wait to be taken. The first error of a task is raised.
    """
    num_threads = num_threads or min(
        MOST_THREADS, len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count() or 1
    )
    waiting: deque[Future[Block]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="export") as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(task))
                if len(waiting) >= 2 * num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _has_affinity() -> bool:
    return hasattr(os, "sched_getaffinity")  # not on macOS
