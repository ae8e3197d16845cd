"""Where a machine cannot shut code in, nothing runs; the canary notices every door that is left open."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from finetune.errors import ConfigError
from finetune.evaluation.sandbox import canary
from finetune.evaluation.sandbox import isolation as isolation_module
from finetune.evaluation.sandbox.isolation import Isolation, find_isolation

from .conftest import INSIDE

pytestmark = pytest.mark.bar("S12")


@dataclass(frozen=True, slots=True)
class Leaky:
    """A sandbox whose guard was changed."""

    folder: Path
    kind: str = "namespaces"

    def command(self, disk_bytes: int) -> list[str]:
        command = Isolation("namespaces").command(disk_bytes)
        return [part.replace(str(INSIDE), str(self.folder)) for part in command]


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "file, before, after, breach",
    [
        ("guard.py", "    | kernel.CLONE_NEWNET\n", "", "connection"),
        ("guard.py", "    kernel.enter_root(_STAGE)\n", "", ""),
        ("guard.py", '    _limit(job["limits"])\n    kernel', "    kernel", "RLIMIT_AS"),
        (
            "guard.py",
            "    kernel.drop_capabilities()\n    f",
            "    kernel.control(38, 1)\n    f",
            "capabilities are left",
        ),
        ("guard.py", "    filter_system_calls()\n    kernel", "    kernel", "system calls are not filtered"),
        ("system_calls.py", "298, 304, 319,", "298, 304,", "memory without a mapping"),
        ("system_calls.py", "*(29, ", "*(", "System V"),
        ("system_calls.py", "_SOCKET[machine])", "9999)", "other families"),
        ("guard.py", "    | kernel.CLONE_NEWPID\n", "", "shares the numbers of processes"),
        ("guard.py", '(resource.RLIMIT_NPROC, limits["num_processes"])', "(resource.RLIMIT_CORE, 0)", "processes"),
        ("guard.py", "size={limits['disk_bytes']},", "", "the size of the work folder"),
        ("kernel.py", "    if read_only:\n", "    if False:\n", "is not read-only"),
    ],
)
def test_canary_notices_a_door_left_open(isolation, tmp_path, file, before, after, breach):
    if isolation.kind != "namespaces":
        pytest.skip("bwrap makes the namespaces itself")
    shutil.copytree(INSIDE / "inside", tmp_path / "inside", ignore=shutil.ignore_patterns("__pycache__"))
    text = (tmp_path / "inside" / file).read_text()
    assert before in text
    (tmp_path / "inside" / file).write_text(text.replace(before, after))
    found = canary.breaches(Leaky(tmp_path))  # pyright: ignore[reportArgumentType]
    assert found
    assert breach in found[0]


def test_a_machine_that_cannot_isolate_is_refused_with_reason_and_cure(monkeypatch):
    monkeypatch.setattr(canary, "breaches", lambda _: ["[Errno 1] unshare: Operation not permitted"])
    isolation_module.probe_isolation.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"cannot shut generated code in: .*unshare.*run_code=false") as error:
            find_isolation()
        assert error.value.exit_code == 2
    finally:
        isolation_module.probe_isolation.cache_clear()


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_are_refused(monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    isolation_module.probe_isolation.cache_clear()
    try:
        with pytest.raises(ConfigError, match="needs Linux namespaces"):
            find_isolation()
    finally:
        isolation_module.probe_isolation.cache_clear()


@pytest.mark.slow
def test_normal_user(isolation):
    """As root, the way of a normal user is taken too, where that user can start some Python."""
    if os.geteuid() != 0:
        pytest.skip("this is a normal user; the other tests are about it")
    python = "/usr/bin/python3"
    nobody = {"user": 65534, "group": 65534, "extra_groups": [], "cwd": "/"}
    root = Path(__file__).resolve().parents[3]
    probe = [python, "-c", f"import sys, os; sys.exit(sys.version_info < (3, 11) or not os.access({str(root)!r}, 4))"]
    if not Path(python).exists() or subprocess.run(probe, **nobody).returncode != 0:
        pytest.skip("no Python 3.11 that user 65534 may start, or a checkout that it may not read")
    program = {"code": "def f():\n    return 1", "tests": ["assert f() == 1"], "entry_point": "f"}
    done = subprocess.run(
        [python, "-B", "-m", "finetune.evaluation.sandbox.run"],
        input=json.dumps(program),
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        **nobody,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] is True
