"""How much memory is left before the kernel ends this process: of the machine, and of its control group."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes left, of how many, and whose limit that is."""

    free_bytes: int
    total_bytes: int
    whose: str

    def __str__(self) -> str:
        free, total = (f"{value / 1e9:.2f} GB" for value in (self.free_bytes, self.total_bytes))
        return f"{free} of {total} left ({self.whose})"


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group with a limit: files that hold it, what is used, and what of that is cached file content."""

    limit_bytes: int
    usage: int
    statistics: int
    cached: bytes
    """Name of the statistic that counts file content which the kernel takes back before it ends a process."""


@dataclass(slots=True)
class FreeMemory:
    """Looks at the free memory; the files stay open, so that a look takes some ten microseconds."""

    root: Path = Path("/")
    """Where `proc` and `sys` lie; tests put their own there."""
    _machine: int | None = None
    _groups: list[_Group] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._machine = _opened(self.root / "proc/meminfo")
        if self._machine is not None:
            self._groups = [group for folder in self._group_folders() if (group := _group(folder)) is not None]

    def _group_folders(self) -> list[Path]:
        """Return the folders of this process's control group and of those around it, versions 1 and 2."""
        try:
            lines = (self.root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        folders: list[Path] = []
        for line in lines:
            _, controllers, place = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            top = self.root / "sys/fs/cgroup" / ("memory" if controllers else "")
            inside = top / place.lstrip("/")
            folders += [folder for folder in (inside, *inside.parents) if folder.is_relative_to(top)]
        return folders

    def look(self, *, with_swap: bool = True) -> Room | None:
        """Return the tightest room, swap of the machine included or not; None where this system does not tell."""
        if self._machine is None:
            return _from_psutil(with_swap) if self.root == Path("/") and sys.platform == "darwin" else None
        values = _numbers(self._machine)
        swap = values.get(b"SwapFree:", 0) * 1024 if with_swap else 0
        machine = Room(values[b"MemAvailable:"] * 1024 + swap, values[b"MemTotal:"] * 1024, "this machine's memory")
        return min([machine, *(_room(group) for group in self._groups)], key=lambda room: room.free_bytes)

    def close(self) -> None:
        for number in [self._machine, *(file for group in self._groups for file in (group.usage, group.statistics))]:
            if number is not None:
                os.close(number)
        self._machine, self._groups = None, []


def reserve_bytes(room: Room) -> int:
    """Return the room below which a run ends while it still can save: 2 % of all, 128 MiB at least, 1 GiB at most."""
    return min(max(room.total_bytes // 50, 128 * _MEBIBYTE), 1024 * _MEBIBYTE)


def usable_bytes() -> int | None:
    """Return the main memory that this process can have without swap and without the run being ended by the watch.

    What it holds already counts; pages of mapped files do not, since the system takes them back. None where this
    system does not tell.
    """
    import psutil

    memory = FreeMemory()
    room = memory.look(with_swap=False)
    memory.close()
    if room is None:
        return None
    own = psutil.Process().memory_info()
    return max(room.free_bytes - reserve_bytes(room), 0) + own.rss - getattr(own, "shared", 0)


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _numbers(file: int) -> dict[bytes, int]:
    lines = [line.split() for line in os.pread(file, 16_384, 0).splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}


def _group(folder: Path) -> _Group | None:
    names = (
        ("memory.max", "memory.current", b"inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file"),
    )
    for limit_name, usage_name, cached in names:
        try:
            limit = int((folder / limit_name).read_text())
        except (OSError, ValueError):  # absent, or `max`
            continue
        usage, statistics = _opened(folder / usage_name), _opened(folder / "memory.stat")
        if usage is not None and statistics is not None and limit < 1 << 60:
            return _Group(limit, usage, statistics, cached)
    return None


def _room(group: _Group) -> Room:
    used = int(os.pread(group.usage, 64, 0)) - _numbers(group.statistics).get(group.cached, 0)
    return Room(group.limit_bytes - used, group.limit_bytes, "this container's limit")


def _from_psutil(with_swap: bool) -> Room:
    import psutil

    memory = psutil.virtual_memory()
    swap = psutil.swap_memory().free if with_swap else 0
    return Room(memory.available + swap, memory.total, "this machine's memory")
