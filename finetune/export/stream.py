"""Computes blocks on a few threads, hands them out in order, and writes them; used by the writers of export formats.

Reading, rounding, quantising, hashing and writing release the interpreter's lock, so that threads suffice. Memory: a
block for each thread, and about as many again that wait to be written or hashed.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from finetune.export.direct_file import Block, DirectFile

MOST_THREADS = 8
"""More threads wait for the disk."""

_MOST_UNHASHED = 4
"""Blocks that may be written before they are hashed."""


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


class HashedFile:
    """A new file that is written and hashed on threads of its own while it grows; see `hashed_file`."""

    def __init__(self, path: Path) -> None:
        self.sha256 = ""
        """Of the whole file, in hexadecimal; empty until the file is closed."""
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._unhashed: deque[Future[None]] = deque()
        self._file = DirectFile(path)

    def write(self, block: Block) -> None:
        """Append a block, which must not be changed afterwards.

        Raises:
            OSError: the disk is full or failed, now or while an earlier block was written.
        """
        self._hash(block)
        self._file.write(block)

    def finish(self) -> None:
        """Wait until all is on the disk, and set `sha256`.

        Raises:
            OSError: the disk is full or failed.
        """
        self._file.finish()
        while self._unhashed:
            self._unhashed.popleft().result()
        self.sha256 = self._digest.hexdigest()

    def stop(self) -> None:
        """End the threads and close the file."""
        self._hasher.shutdown(cancel_futures=True)
        self._file.close()

    def _hash(self, block: Block) -> None:
        self._unhashed.append(self._hasher.submit(self._digest.update, block))
        if len(self._unhashed) > _MOST_UNHASHED:
            self._unhashed.popleft().result()


@contextmanager
def hashed_file(path: Path) -> Iterator[HashedFile]:
    """Yield a new file to write blocks to; all of it is on the disk and hashed afterwards.

    Raises:
        OSError: the disk is full or failed.
    """
    file = HashedFile(path)
    try:
        yield file
        file.finish()
    finally:
        file.stop()


def _has_affinity() -> bool:
    return hasattr(os, "sched_getaffinity")  # not on macOS
