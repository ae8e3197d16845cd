"""Blocks in order from several threads, and the file that takes them: whole, hashed, on the disk, or an error."""

import errno
import hashlib
import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from finetune.export import stream
from finetune.export.stream import appended, in_order


def test_blocks_come_in_order_whichever_is_done_first() -> None:
    def block(number: int) -> bytes:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return bytes([number])

    assert b"".join(bytes(done) for done in in_order((partial(block, n) for n in range(40)), 4)) == bytes(range(40))


def test_few_blocks_wait_at_a_time() -> None:
    started: list[int] = []

    def block(number: int) -> bytes:
        started.append(number)
        return b""

    blocks = in_order((partial(block, number) for number in range(100)), 2)
    next(blocks)
    time.sleep(0.05)
    assert len(started) <= 4
    assert len(list(blocks)) == 99


def test_a_file_is_hashed_with_what_it_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(stream, "FLUSH_BYTES", 1000)
    monkeypatch.setattr(stream, "_flush_data", flushed.append)
    path = tmp_path / "file"
    path.write_bytes(b"header")
    blocks = [os.urandom(size) for size in (1, 999, 5000, 0, 3, 70_000)]
    with appended(path) as file:
        for block in blocks:
            file.write(block)
        assert file.sha256 == ""
    assert path.read_bytes() == b"header" + b"".join(blocks)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(flushed) >= 1


def test_all_is_on_the_disk_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    synced = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (sizes.append(os.fstat(handle).st_size), synced(handle)))
    with appended(tmp_path / "file") as file:
        file.write(b"x" * 100)
    assert sizes == [100]


@pytest.mark.parametrize("at_the_end", [True, False])
def test_an_error_of_a_flush_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_the_end: bool) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stream, "FLUSH_BYTES", 1)
    monkeypatch.setattr(stream, "_flush_data", full)
    before = threading.active_count()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), appended(tmp_path / "file") as file:
        file.write(b"1")
        while not at_the_end:
            time.sleep(0.01)
            file.write(b"2")
    assert file.sha256 == ""
    assert threading.active_count() == before


def test_threads_end_when_the_writer_fails(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="stop"), appended(tmp_path / "file") as file:
        file.write(bytes(1000))
        raise ValueError("stop")
    assert threading.active_count() == before
    assert file.sha256 == ""
