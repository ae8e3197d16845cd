"""Programs that attack the machine: none reaches anything, harms anything, or leaves a process behind."""

import os
import resource
import socket
import tempfile
import time
from pathlib import Path

import pytest

from finetune.evaluation.sandbox.isolation import Isolation
from finetune.evaluation.sandbox.run import Limits, Outcome, Program, run_program

from .conftest import num_left_over

pytestmark = [pytest.mark.bar("S12"), pytest.mark.slow]
LIBC = "import ctypes\nlibc = ctypes.CDLL(None)\n"
SHORT = Limits(wall_seconds=0.25)


def run(isolation: Isolation, code: str, *tests: str, limits: Limits | None = None) -> Outcome:
    return run_program(Program(code=code, tests=tests, entry_point="f"), isolation, limits)


def assert_contained(isolation: Isolation, body: str, *arguments: object) -> None:
    """`body` is the body of f, which returns what it reached; it must end with an exception or return None."""
    lines = "\n".join("        " + line for line in body.strip().splitlines())
    code = (
        f"import os\ndef f(*a):\n    try:\n{lines}\n    except Exception as e:\n        return ['refused', repr(e)]\n"
    )
    outcome = run(isolation, code, f"r = f(*{arguments!r})\nassert r and r[0] == 'refused', r")
    assert outcome.passed, outcome


def test_fork_bomb(isolation):
    code = "import os\ndef f():\n    while True:\n        try: os.fork()\n        except OSError: pass"
    started = time.monotonic()
    assert run(isolation, code, "f()", limits=SHORT).reason == "timeout"
    assert time.monotonic() - started < 5
    assert num_left_over() == 0


def test_forks_and_threads_are_counted(isolation):
    code = (
        "import os, time\ndef f():\n    n = 0\n    try:\n        while n < 100:\n            if os.fork() == 0:\n"
        "                time.sleep(9)\n            n += 1\n    except OSError:\n        pass\n    return n"
    )
    assert run(isolation, code, "n = f()\nassert 0 < n <= 5, n").passed
    assert num_left_over() == 0


@pytest.mark.parametrize("body", ["while True: pass", "__import__('time').sleep(99)", "input()\n    while True: input"])
def test_endless_loop(isolation, body):
    started = time.monotonic()
    outcome = run(isolation, f"def f():\n    {body}", "f()", limits=SHORT)
    assert not outcome.passed
    assert time.monotonic() - started < 5
    assert num_left_over() == 0


def test_stopped_judge(isolation):
    code = "import os, signal\ndef f():\n    os.kill(os.getppid(), signal.SIGSTOP)"
    assert run(isolation, code, "f()", limits=SHORT).reason in ("timeout", "killed")
    assert num_left_over() == 0


def test_4_gigabytes(isolation):
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    outcome = run(isolation, "def f():\n    return len(b'x' * 4_000_000_000)", "assert f() == 4_000_000_000")
    assert (outcome.passed, outcome.reason) == (False, "failed")
    assert "MemoryError" in outcome.detail
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss <= max(before, 600_000)  # kB


def test_socket(isolation):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert_contained(isolation, "import socket\nreturn socket.create_connection(('127.0.0.1', a[0]), 1)", port)
        assert_contained(isolation, "import socket\nreturn socket.create_connection(('192.0.2.1', 80), 1)")
        assert_contained(isolation, "import socket\nreturn socket.getaddrinfo('example.org', 80)")


def test_home_folder(isolation, tmp_path):
    diary = tmp_path / "diary.txt"
    diary.write_text("private")
    assert_contained(isolation, "return open(a[0]).read()", str(diary))
    assert_contained(isolation, "return os.listdir(a[0])", str(tmp_path))
    assert_contained(isolation, "return os.listdir(os.path.join(a[0], '.ssh'))", str(Path.home()))
    assert_contained(isolation, "return open('/etc/passwd').read()")
    assert_contained(isolation, "return open(a[0]).read()", __file__)


def test_environment(isolation, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code = "import os\ndef f():\n    return dict(os.environ)"
    outcome = run(isolation, code, "assert not set(f()) - {'LC_CTYPE', 'PWD'}, f()")
    assert outcome.passed, outcome
    assert_contained(isolation, "return open('/proc/self/environ').read()")


def test_writing_outside(isolation):
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        assert_contained(isolation, "return open(a[0] + '/x', 'w')", folder)
        assert list(Path(folder).iterdir()) == []
    assert_contained(isolation, "return open('/x', 'w')")
    assert_contained(isolation, "return open(os.__file__, 'a')")
    assert_contained(isolation, "return os.mkdir('/etc/x') or 1")


def test_work_folder_is_empty_and_of_its_own(isolation):
    code = (
        "import os\ndef f():\n    before = os.listdir()\n    open('x', 'w').write('1')\n    return before, os.listdir()"
    )
    for _ in range(2):
        outcome = run(isolation, code, "assert f() == ([], ['x']), f()")
        assert outcome.passed, outcome


def test_signal_to_the_parent(isolation):
    assert_contained(isolation, "return os.kill(a[0], 0) or 1", os.getpid())
    assert_contained(isolation, "os.kill(1, 9)\nimport time\ntime.sleep(0.05)\nreturn 'lives' and 1 / 0")
    for target in ("os.getppid()", "-1", "0"):
        outcome = run(isolation, f"import os\ndef f():\n    os.kill({target}, 9)", "f()")
        assert not outcome.passed
    assert num_left_over() == 0


def test_full_disk(isolation):
    body = "for n in range(100):\n    with open(str(n), 'wb') as file:\n        file.write(bytes(1_000_000))\nreturn n"
    assert_contained(isolation, body)
    large = (
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nreturn open('x', 'wb').write(bytes(9_000_000))"
    )
    assert_contained(isolation, large)


def test_many_files(isolation):
    if isolation.kind == "bubblewrap":
        pytest.skip("bwrap bounds the size of a folder, not its number of files")
    assert_contained(isolation, "for n in range(5000):\n    os.mkdir(str(n))\nreturn n")


def test_output_flood(isolation):
    code = "import os\ndef f():\n    while True:\n        print('x' * 1_000_000)\n        os.write(2, b'x' * 1_000_000)"
    assert run(isolation, code, "f()", limits=SHORT).reason == "timeout"
    outcome = run(isolation, "def f():\n    return 'x' * 50_000_000", "assert f()")
    assert not outcome.passed
    outcome = run(isolation, "def f():\n    return 1", "print('x' * 50_000_000)\nassert f() == 2, 'x' * 50_000_000")
    assert not outcome.passed
    assert len(outcome.detail) <= 400


def test_process_that_outlives_its_parent(isolation):
    code = (
        "import os, time\ndef f():\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
        "            time.sleep(60)\n        os._exit(0)\n    return 1"
    )
    assert run(isolation, code, "assert f() == 1").passed
    assert num_left_over() == 0


def test_ending_the_process_that_asked_ends_the_sandbox(isolation):
    asked = os.fork()
    if asked == 0:
        run(isolation, "def f():\n    while True: pass", "f()", limits=Limits(wall_seconds=60))
        os._exit(0)
    time.sleep(0.15)
    os.kill(asked, 9)
    os.waitpid(asked, 0)
    assert num_left_over() == 0


@pytest.mark.parametrize(
    "body",
    [
        LIBC + "if libc.ptrace(16, os.getppid(), 0, 0) != 0: raise OSError()\nreturn 1",
        LIBC + "if libc.unshare(0x10000000) != 0: raise OSError()\nreturn 1",
        LIBC + "if libc.mount(b't', b'/work', b'tmpfs', 0, 0): raise OSError()\nreturn 1",
        "return os.setuid(0) or 1",
        "return os.memfd_create('x')",
        LIBC + "if libc.shmget(0, 4096, 0o1600) < 0: raise OSError()\nreturn 1",
        "import socket\nreturn socket.socket(40, socket.SOCK_STREAM)",
        "return os.chroot('/work') or 1",
        "import resource\nreturn resource.setrlimit(resource.RLIMIT_NPROC, (99, 99)) or 1",
        "return os.execv('/bin/sh', ['sh'])",
    ],
)
def test_privileges(isolation, body):
    assert_contained(isolation, body)
