"""A program that tries to get out, run before any foreign code; what it reaches is a reason to refuse."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.evaluation.sandbox.isolation import Isolation

_CANARY = """
def breaches(facts):
    import ctypes, os, resource, socket
    found = []

    def attempt(what, work):
        try:
            result = work()
        except Exception:
            return
        if result is not False:
            found.append(what)

    def connect(family, address):
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.settimeout(1)
            one.connect(address)

    def write(path):
        with open(path, "a"):
            pass

    attempt("a connection to this machine is possible", lambda: connect(socket.AF_INET, ("127.0.0.1", facts["port"])))
    attempt("an abstract socket of this machine can be reached", lambda: connect(socket.AF_UNIX, facts["abstract"]))
    attempt("a network device is there", lambda: [n for _, n in socket.if_nameindex() if n != "lo"] != [])
    for path in facts["secret"]:
        attempt("%s can be read" % path, lambda: open(path).close())
    for path in facts["folders"]:
        attempt("%s can be listed" % path, lambda: bool(set(os.listdir(path)) - set(facts["allowed"])))
        attempt("%s can be written" % path, lambda: write(os.path.join(path, "finetune-canary")))
    for path in facts["shown"]:
        inside = os.path.join(path, "finetune-canary") if os.path.isdir(path) else path
        attempt("%s can be written" % path, lambda: write(inside))
        attempt("%s is not read-only" % path, lambda: not os.statvfs(path).f_flag & os.ST_RDONLY)
    attempt("the process that asked is seen", lambda: exists(facts["parent"]))
    attempt("it shares the numbers of processes with this machine", lambda: os.getpid() > 8)
    attempt("other processes can be seen", lambda: os.listdir("/proc"))
    attempt("the environment is there", lambda: bool([name for name in os.environ if name not in ("LC_CTYPE", "PWD")]))
    attempt("it runs as root", lambda: os.getuid() == 0 or os.geteuid() == 0)
    libc = ctypes.CDLL(None)
    attempt("new privileges are possible", lambda: libc.prctl(39, 0, 0, 0, 0) != 1)
    attempt("capabilities are left", lambda: any(libc.prctl(23, n, 0, 0, 0) == 1 for n in range(64)))
    attempt("system calls are not filtered", lambda: libc.prctl(21, 0, 0, 0, 0) != 2)
    attempt("memory without a mapping is possible", lambda: os.close(os.memfd_create("x")))
    attempt("shared memory of System V is possible", lambda: libc.shmget(0, 4096, 0o1600) >= 0)
    attempt("sockets of other families are possible", lambda: socket.socket(40, socket.SOCK_STREAM))
    attempt("another user namespace can be made", lambda: libc.unshare(0x10000000) == 0)
    for name, wanted in facts["limits"].items():
        hard = resource.getrlimit(getattr(resource, name))[1]
        attempt("the limit %s is not set" % name, lambda: not 0 <= hard <= wanted)
    attempt("memory is not limited", lambda: bytearray(facts["limits"]["RLIMIT_AS"]))
    attempt("the number of processes is not limited", lambda: fork_all(facts["limits"]["RLIMIT_NPROC"]))
    attempt("the size of the work folder is not limited", lambda: fill(facts["disk_bytes"]))
    return found


def exists(pid):
    import os
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False


def fork_all(count):
    import os, time
    parent = os.getpid()
    for _ in range(count):
        if os.fork() == 0:
            time.sleep(0.2)
            os._exit(0)


def fill(num_bytes):
    import os, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for name in "abcd":
        with open(name, "wb") as file:
            file.write(bytes(num_bytes // 3))
"""


def breaches(isolation: Isolation) -> list[str]:
    """What the canary reached, in words; empty where it is shut in. The reason alone where no sandbox can be made."""
    from finetune.evaluation.sandbox.run import Limits, Program, run_program

    limits = Limits()
    with _traps() as traps:
        facts = {**traps, **_facts(), "disk_bytes": limits.disk_bytes, "limits": _rlimits(limits)}
        test = f"found = breaches({facts!r})\nassert found == [], '; '.join(map(str, found))"
        outcome = run_program(Program(code=_CANARY, tests=(test,), entry_point="breaches"), isolation, limits)
    if outcome.passed:
        return []
    _, told, reached = outcome.detail.partition("AssertionError: ")
    return [reached[:200] if told else outcome.detail[-200:] or outcome.reason]


def _rlimits(limits: Any) -> dict[str, int]:
    return {
        "RLIMIT_AS": limits.memory_bytes,
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_NOFILE": limits.num_open_files,
        "RLIMIT_NPROC": limits.num_processes,
        "RLIMIT_CORE": 0,
    }


def _facts() -> dict[str, Any]:
    """Places of this machine that must be out of reach."""
    from finetune.evaluation.sandbox.isolation import python_mounts

    shown = python_mounts()["shown"]
    home, here = str(Path.home()), str(Path.cwd())
    folders = [
        path for path in (home, here, "/", "/etc", "/var", "/usr", "/proc", "/sys", "/dev") if Path(path).is_dir()
    ]
    # Folders on the way to what is shown exist inside too: names of those are no secret.
    allowed = {part for path in (*shown, "/work", "/sandbox/inside", os.devnull) for part in Path(path).parts}
    links = [name.lstrip("/") for name in python_mounts()["links"]]
    return {"folders": folders, "allowed": sorted([*allowed, *links]), "shown": shown, "parent": os.getpid()}


@contextlib.contextmanager
def _traps() -> Iterator[dict[str, Any]]:
    """Listen on a port and an abstract socket, and lay out a file that only the outside can read."""
    name = f"\0finetune-canary-{os.getpid()}"
    with (
        socket.socket(socket.AF_INET) as port,
        socket.socket(socket.AF_UNIX) as abstract,
        tempfile.NamedTemporaryFile() as secret,
    ):
        port.bind(("127.0.0.1", 0))
        abstract.bind(name)
        port.listen()
        abstract.listen()
        files = [secret.name, "/etc/passwd", "/etc/hostname", __file__]
        yield {"port": port.getsockname()[1], "abstract": name, "secret": files}
