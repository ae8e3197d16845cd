"""The room that is left: the machine's, a container's of either version of control groups, the tightest of all."""

from pathlib import Path

import pytest

from finetune.model.free_memory import FreeMemory, Room, reserve_bytes

MACHINE = {"proc/meminfo": "MemTotal: 8000000 kB\nMemFree: 100 kB\nMemAvailable:    5000000 kB\nSwapFree: 1000 kB\n"}
VERSION_2 = {
    "proc/self/cgroup": "0::/pod/box\n",
    "sys/fs/cgroup/pod/memory.max": "2000000000\n",
    "sys/fs/cgroup/pod/memory.current": "1500000000\n",
    "sys/fs/cgroup/pod/memory.stat": "anon 1200000000\ninactive_file 300000000\n",
    "sys/fs/cgroup/pod/box/memory.max": "max\n",
    "sys/fs/cgroup/pod/box/memory.current": "1\n",
    "sys/fs/cgroup/pod/box/memory.stat": "inactive_file 0\n",
}
VERSION_1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/box\n4:memory:/elsewhere\n0::/\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000000\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "900000000\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 1\ntotal_inactive_file 50000000\n",
}
UNLIMITED = VERSION_1 | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}


@pytest.mark.bar("R8")
@pytest.mark.parametrize(
    ("files", "free", "whose"),
    [
        (MACHINE, 5_001_000 * 1024, "machine"),
        (MACHINE | VERSION_2, 800_000_000, "container"),
        (MACHINE | VERSION_1, 150_000_000, "container"),
        (MACHINE | UNLIMITED, 5_001_000 * 1024, "machine"),
    ],
    ids=["machine", "version 2", "version 1", "unlimited"],
)
def test_the_tightest_limit_counts(files: dict[str, str], free: int, whose: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    memory = FreeMemory(tmp_path)
    room = memory.look()
    assert room is not None and (room.free_bytes, whose in room.whose) == (free, True)
    (tmp_path / "proc/meminfo").write_text(MACHINE["proc/meminfo"].replace("5000000", "0000010"))
    tighter = memory.look()
    assert tighter is not None and tighter.free_bytes == 1010 * 1024, "each look reads anew"
    memory.close()


@pytest.mark.bar("R8")
def test_a_system_that_does_not_tell_is_not_watched(tmp_path: Path) -> None:
    assert FreeMemory(tmp_path).look() is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="no /proc on this system")
def test_this_machine_tells() -> None:
    room = FreeMemory().look()
    assert room is not None and room.free_bytes > 0
    assert " GB left (this machine's memory)" in str(room) or " GB left (this container's limit)" in str(room)


def test_the_reserve_grows_with_the_memory_within_bounds() -> None:
    reserves = [reserve_bytes(Room(0, total, "x")) for total in (10**9, 16 * 10**9, 10**12)]
    assert reserves == [128 << 20, 16 * 10**9 // 50, 1 << 30]
