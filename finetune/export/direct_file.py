"""Writes a file past the system's page cache where the system allows it; used by `stream.py`.

Copying a model's bytes through the page cache costs the processor more than merging does, and the system then holds
gigabytes that nobody reads. Linux takes whole pages straight from aligned memory (O_DIRECT); elsewhere, and on file
systems that refuse it, the same bytes go through the cache and are flushed now and then. Memory: two buffers.
"""

import contextlib
import errno
import mmap
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

Block = bytes | bytearray | memoryview

BUFFER_BYTES = 8 * 2**20
"""Size of each of the two buffers: one is filled while the other is written."""

PAGE_BYTES = 4096
"""Positions and sizes of direct writes are multiples of it."""

FLUSH_BYTES = 64 * 2**20
"""Through the cache, so much is written before the disk is made to begin. Left alone, a system keeps gigabytes back
until the end."""


class DirectFile:
    """A new file that grows at its end, written on a thread of its own. Closed by `close`."""

    def __init__(self, path: Path) -> None:
        self._file, self._is_direct = _open(path)
        self._buffers = [np.frombuffer(mmap.mmap(-1, BUFFER_BYTES), np.uint8) for _ in range(2)]
        self._num_filled = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._write: Future[None] | None = None
        self._flush: Future[None] | None = None
        self._num_unflushed_bytes = 0

    def write(self, block: Block) -> None:
        """Append a block, which may be changed afterwards.

        Raises:
            OSError: the disk is full or failed, now or while an earlier block was written.
        """
        values = np.frombuffer(block, np.uint8)
        while len(values):
            count = min(len(values), BUFFER_BYTES - self._num_filled)
            np.copyto(self._buffers[0][self._num_filled : self._num_filled + count], values[:count])
            self._num_filled += count
            values = values[count:]
            if self._num_filled == BUFFER_BYTES:
                self._hand_over()

    def finish(self) -> None:
        """Wait until all is on the disk.

        Raises:
            OSError: the disk is full or failed.
        """
        if self._num_filled:
            self._hand_over()
        _await(self._write)
        _await(self._flush)
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """End the threads and close the file."""
        self._writer.shutdown(cancel_futures=True)
        self._flusher.shutdown(cancel_futures=True)
        self._file.close()

    def _hand_over(self) -> None:
        """Give the filled buffer to the writing thread, and go on with the one that it has written."""
        _await(self._write)
        self._write = self._writer.submit(self._write_out, self._buffers[0][: self._num_filled].data)
        self._num_filled = 0
        self._buffers.reverse()

    def _write_out(self, view: memoryview) -> None:
        whole = len(view) // PAGE_BYTES * PAGE_BYTES
        self._write_all(view[:whole])
        if whole < len(view):  # the file's last bytes
            self._through_cache()
            self._write_all(view[whole:])
        self._num_unflushed_bytes += len(view)
        if not self._is_direct and self._num_unflushed_bytes >= FLUSH_BYTES and (not self._flush or self._flush.done()):
            _await(self._flush)
            self._flush = self._flusher.submit(_flush_data, self._file.fileno())
            self._num_unflushed_bytes = 0

    def _write_all(self, view: memoryview) -> None:
        while view:
            try:
                count = self._file.write(view)
            except OSError as error:
                if not (self._is_direct and error.errno == errno.EINVAL):
                    raise
                self._through_cache()  # a file system with other rules, or the rest of a write that was cut short
                count = 0
            view = view[count:]

    def _through_cache(self) -> None:
        if self._is_direct:
            import fcntl

            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            self._is_direct = False


def _open(path: Path) -> tuple[BinaryIO, bool]:
    """Open a file for unbuffered writing, and say whether it bypasses the page cache."""
    if hasattr(os, "O_DIRECT"):
        with contextlib.suppress(OSError):  # refused by tmpfs and some network file systems
            return _opened(path, os.O_DIRECT), True
    return _opened(path, 0), False


def _opened(path: Path, flags: int) -> Any:
    return open(path, "wb", buffering=0, opener=lambda name, given: os.open(name, given | flags))


def _await(future: Future[None] | None) -> None:
    if future is not None:
        future.result()


def _flush_data(handle: int) -> None:
    getattr(os, "fdatasync", os.fsync)(handle)  # macOS has no fdatasync
