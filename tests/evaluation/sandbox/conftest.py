"""The ways of this machine to shut a process in; tests that need one skip with the reason where there is none."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune.evaluation.sandbox import isolation as isolation_module
from finetune.evaluation.sandbox.canary import breaches
from finetune.evaluation.sandbox.isolation import Isolation

INSIDE = Path(isolation_module.__file__).parent


BWRAP = shutil.which("bwrap") if sys.platform.startswith("linux") and os.geteuid() != 0 else None
"""bubblewrap does not limit root's processes, so it is not used for root."""


def _makes_namespaces() -> bool:
    """Whether other programs can do what the sandbox does, so that a broken sandbox is no reason to skip."""
    unshare = shutil.which("unshare")
    options = ["--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup", "--fork"]
    options += [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    steps = (
        "mount -t tmpfs none /tmp",
        "mkdir /tmp/usr /tmp/old",
        "mount --bind /usr /tmp/usr",
        "mount -o remount,bind,ro /tmp/usr",
        "unshare --user true",
        "cd /tmp",
        "pivot_root . old",
    )
    if unshare is None:
        return False
    return subprocess.run([unshare, *options, "sh", "-c", " && ".join(steps)], capture_output=True).returncode == 0


@pytest.fixture(params=["namespaces", *(["bubblewrap"] if BWRAP else [])], scope="session")
def isolation(request) -> Isolation:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux namespaces")
    found = Isolation(request.param, BWRAP or "")
    problems = breaches(found)
    if problems:
        assert not _makes_namespaces(), f"this machine makes namespaces, but the sandbox is open: {problems[0]}"
        pytest.skip(f"this machine cannot isolate: {problems[0]}")
    return found


def num_left_over(seconds: float = 5.0) -> int:
    """Processes of sandboxes of this checkout that are there after waiting for their end."""
    until = time.monotonic() + seconds
    while True:
        left = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                left += str(INSIDE).encode() in path.read_bytes()
            except OSError:
                continue
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.02)
