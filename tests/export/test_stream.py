"""Blocks in order from several threads, and the file that takes them: whole, hashed, on the disk, or an error."""

import errno
import hashlib
import os
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from finetune.export import direct_file
from finetune.export.stream import hashed_file, in_order


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


SIZES = (1, 999, 5000, 0, 3, 70_000)


@pytest.mark.parametrize("sizes", [SIZES, (8192, 8192), (4096, 1), (), (20_000, 8192 * 5)])
@pytest.mark.parametrize("is_direct", [True, False])
def test_a_file_holds_its_blocks_and_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], is_direct: bool
) -> None:
    monkeypatch.setattr(direct_file, "BUFFER_BYTES", 8192)
    if not is_direct:
        monkeypatch.delattr(os, "O_DIRECT", raising=False)
    path = tmp_path / "file"
    path.write_bytes(b"what lay there before")
    blocks = [os.urandom(size) for size in sizes]
    with hashed_file(path) as file:
        for block in blocks:
            file.write(block)
        assert file.sha256 == ""
    assert path.read_bytes() == b"".join(blocks)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="this system has no direct writes")
def test_a_direct_write_that_is_refused_goes_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_file, "PAGE_BYTES", 17)  # no disk takes such pieces
    monkeypatch.setattr(direct_file, "BUFFER_BYTES", 170)
    content = os.urandom(1000)
    with hashed_file(tmp_path / "file") as file:
        for start in range(0, 1000, 100):
            file.write(content[start : start + 100])
    assert (tmp_path / "file").read_bytes() == content


def test_through_the_cache_the_disk_begins_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.delattr(os, "O_DIRECT", raising=False)
    monkeypatch.setattr(direct_file, "BUFFER_BYTES", 4096)
    monkeypatch.setattr(direct_file, "FLUSH_BYTES", 8192)
    monkeypatch.setattr(direct_file, "_flush_data", flushed.append)
    with hashed_file(tmp_path / "file") as file:
        for _ in range(10):
            file.write(bytes(4096))
            time.sleep(0.002)
        assert flushed


def test_all_is_on_the_disk_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    synced = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (sizes.append(os.fstat(handle).st_size), synced(handle)))
    with hashed_file(tmp_path / "file") as file:
        file.write(b"x" * 100)
    assert sizes == [100]


@pytest.mark.parametrize("at_the_end", [True, False])
def test_an_error_of_a_write_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_the_end: bool) -> None:
    def full(self: direct_file.DirectFile, view: memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(direct_file, "BUFFER_BYTES", 4096)
    monkeypatch.setattr(direct_file.DirectFile, "_write_all", full)
    before = threading.active_count()
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)), hashed_file(tmp_path / "file") as file:
        file.write(b"1")
        while not at_the_end:
            file.write(bytes(4096))
    assert file.sha256 == ""
    assert threading.active_count() == before


def test_threads_end_when_the_writer_fails(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="stop"), hashed_file(tmp_path / "file") as file:
        file.write(bytes(1000))
        raise ValueError("stop")
    assert threading.active_count() == before
    assert file.sha256 == ""
