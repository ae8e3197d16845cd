"""Shuts its own process in, then judges one program: the sandbox's first process. Started by run.py.

A message {kind, limits, mounts, readings, entry_point, parent} on stdin and one with the tests; the verdict on stdout.
`kind` is `namespaces` (this file makes them) or `bubblewrap` (bwrap has made them and started this file within).
"""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from . import kernel
from .frames import read_frame, write_frame
from .judge import judge
from .system_calls import filter_system_calls

NOBODY = 65534
WORK = "/work"
_STAGE = "/tmp"
"""Any folder that every Linux has: the new root is put together over it, in this mount namespace alone."""
_NAMESPACES = (
    kernel.CLONE_NEWNS
    | kernel.CLONE_NEWPID
    | kernel.CLONE_NEWNET
    | kernel.CLONE_NEWIPC
    | kernel.CLONE_NEWUTS
    | kernel.CLONE_NEWCGROUP
)


def main() -> NoReturn:
    """Run one program. Exit status 0 with a verdict, 1 with the reason why there is none."""
    verdict = os.dup(1)
    try:
        job: Any = read_frame(0)
        if job["kind"] == "namespaces":
            _enter_namespaces(job, verdict)
        else:
            _limit(job["limits"])
            kernel.drop_capabilities()
            filter_system_calls()
        os.chdir(WORK)
        _watch(job, verdict)
    except Exception as error:  # whatever it is, no program runs
        write_frame(verdict, {"refused": f"{error}"})
        os._exit(1)


def _enter_namespaces(job: Any, verdict: int) -> None:
    """Return in the first process of the new namespaces; the process that came here waits for it and ends.

    Started by root, mounts are made as root and so belong to nobody inside; started by a user, in a namespace of
    users where this process has that right.
    """
    is_root = os.geteuid() == 0
    kernel.control(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != job["parent"]:
        os._exit(1)  # the parent had ended before
    user, group, proc = os.geteuid(), os.getegid(), os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    kernel.unshare(_NAMESPACES | (0 if is_root else kernel.CLONE_NEWUSER))
    if not is_root:
        _map_user(proc, user, group)
    alive, held = os.pipe()
    first = os.fork()
    if first:
        os.close(alive)
        _, status = os.waitpid(first, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
    os.close(held)
    _build_root(job["mounts"], job["limits"])
    if is_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        kernel.control(kernel.PR_SET_DUMPABLE, 1)  # else the files of /proc/self are root's now
        kernel.unshare(kernel.CLONE_NEWUSER)
        _map_user(proc, NOBODY, NOBODY)
    _write(proc, "sys/user/max_user_namespaces", "0")
    os.close(proc)
    _limit(job["limits"])
    kernel.drop_capabilities()
    filter_system_calls()
    kernel.control(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.set_blocking(alive, False)
    try:
        os.read(alive, 1)
        os._exit(1)  # the pipe is closed: the other process has ended
    except BlockingIOError:
        os.close(alive)


def _map_user(proc: int, user: int, group: int) -> None:
    """Become user and group `NOBODY` of the new namespace of users."""
    _write(proc, "self/setgroups", "deny")
    _write(proc, "self/uid_map", f"{NOBODY} {user} 1")
    _write(proc, "self/gid_map", f"{NOBODY} {group} 1")


def _write(proc: int, path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY, dir_fd=proc)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _build_root(mounts: Any, limits: Any) -> None:
    """Put together what is seen inside: Python, read-only; an empty folder to work in; nothing else."""
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    sources = {path: os.open(path, os.O_PATH) for path in (*mounts["shown"], os.devnull)}
    safe = kernel.MS_NOSUID | kernel.MS_NODEV
    kernel.mount("tmpfs", _STAGE, "tmpfs", safe, "size=1m,nr_inodes=1k,mode=755")
    for path, target in mounts["links"].items():
        place = Path(_STAGE + path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    for path, source in sources.items():
        _show(f"/proc/self/fd/{source}", Path(_STAGE + path), read_only=path != os.devnull)
        os.close(source)
    for path in mounts["hidden"]:
        kernel.mount("tmpfs", _STAGE + path, "tmpfs", safe | kernel.MS_RDONLY, "size=4k,nr_inodes=2,mode=755")
    Path(_STAGE + WORK).mkdir()
    room = f"size={limits['disk_bytes']},nr_inodes={limits['num_files']},mode=700"
    kernel.mount("tmpfs", _STAGE + WORK, "tmpfs", safe | kernel.MS_NOEXEC, room)
    os.chown(_STAGE + WORK, NOBODY, NOBODY)
    kernel.mount("none", _STAGE, None, kernel.MS_REMOUNT | safe | kernel.MS_RDONLY, "size=1m,nr_inodes=1k")
    kernel.enter_root(_STAGE)


def _show(source: str, place: Path, *, read_only: bool) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        place.mkdir(exist_ok=True)
    else:
        place.touch()
    kernel.bind(source, str(place), read_only=read_only)


def _limit(limits: Any) -> None:
    """Set the limits that the kernel keeps; soft and hard alike, so that they cannot be raised."""
    for kind, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["num_open_files"]),
        (resource.RLIMIT_NPROC, limits["num_processes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_RTPRIO, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    os.umask(0o077)


def _watch(job: Any, verdict: int) -> NoReturn:
    """Fork the judge and wait for it, no longer than the limit; when this process ends, the kernel ends all others."""
    kernel.control(kernel.PR_SET_DUMPABLE, 0)  # foreign code must not trace judge and guard, nor read their memory
    os.environ.clear()
    judging = os.fork()
    if judging == 0:
        _judge(job, verdict)

    def too_late(*_: object) -> None:
        write_frame(verdict, {"passed": False, "reason": "timeout", "detail": f"{job['limits']['wall_seconds']:g} s"})
        os._exit(0)

    signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, job["limits"]["wall_seconds"])
    while True:
        ended, status = os.wait()
        if ended == judging:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if status != 0:
                found = os.waitstatus_to_exitcode(status)
                write_frame(verdict, {"passed": False, "reason": "killed", "detail": f"the judge ended with {found}"})
            os._exit(0)


def _judge(job: Any, verdict: int) -> NoReturn:
    try:
        source = os.dup(0)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
        write_frame(verdict, judge(job["readings"], job["entry_point"], source))
        os._exit(0)
    except BaseException:
        os._exit(1)
