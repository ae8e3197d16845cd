"""Runs programs with their tests, one sandbox each, as many at once as there are cores. Called by the evaluation."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from finetune.errors import ResourceError
from finetune.evaluation.sandbox.isolation import Isolation, python_mounts

_STARTING_SECONDS = 20
"""Time beyond a program's own until the sandbox is ended from outside; it should have ended itself by then."""
_MAX_VERDICT_BYTES = 64_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """Foreign code, and the tests that decide about it."""

    code: str
    tests: tuple[str, ...]
    """Statements, or whole test files; all must run without an exception."""
    entry_point: str | None = None
    """The function that is tested; a function `check` of the tests is called with it."""
    readings: tuple[str, ...] = ()
    """Further ways to read the code; the first that is Python and defines the entry point is run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one program may use."""

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    """Of each process."""
    memory_bytes: int = 512_000_000
    """Addresses of each process."""
    num_processes: int = 8
    """Processes and threads, the sandbox's own four included."""
    disk_bytes: int = 16_000_000
    """The whole work folder, which lies in memory."""
    file_bytes: int = 8_000_000
    """The largest file."""
    num_files: int = 1000
    num_open_files: int = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a program."""

    passed: bool
    reason: str
    """passed; failed (a test or the code itself); exited (early); timeout; killed; refused (no sandbox)."""
    detail: str = ""


def run_program(program: Program, isolation: Isolation, limits: Limits | None = None) -> Outcome:
    """Run one program in a sandbox of its own; anything but a verdict of its judge counts as not passed."""
    limits = limits or Limits()
    try:
        found = _verdict(program, isolation, limits)
    except subprocess.TimeoutExpired:
        return Outcome(passed=False, reason="timeout", detail="the sandbox had to be ended from outside")
    except OSError as error:
        return Outcome(passed=False, reason="refused", detail=str(error))
    if found is None:
        return Outcome(passed=False, reason="killed", detail="the sandbox ended without a verdict")
    if "refused" in found:
        return Outcome(passed=False, reason="refused", detail=str(found["refused"])[:400])
    return Outcome(passed=found["passed"] is True, reason=str(found["reason"]), detail=str(found["detail"]))


def run_programs(programs: Sequence[Program], isolation: Isolation, limits: Limits | None = None) -> Iterator[Outcome]:
    """Run programs side by side on the cores of this process; outcomes in the order of the programs.

    Raises:
        ResourceError: a sandbox could not be made, though the probe could.
    """
    pool = ThreadPoolExecutor(max_workers=num_cores())
    try:
        outcomes: Iterable[Outcome] = pool.map(lambda program: run_program(program, isolation, limits), programs)
        for outcome in outcomes:
            if outcome.reason == "refused":
                raise ResourceError(
                    f"a sandbox for generated code could not be made: {outcome.detail}; end programs that hold many "
                    "processes or much memory, or leave evaluation.run_code=false"
                )
            yield outcome
    finally:
        pool.shutdown(cancel_futures=True)


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _verdict(program: Program, isolation: Isolation, limits: Limits) -> dict[str, Any] | None:
    setup = {
        "kind": isolation.kind,
        "limits": asdict(limits),
        "mounts": python_mounts(),
        "readings": [program.code, *program.readings],
        "entry_point": program.entry_point,
        "parent": os.getpid(),
    }
    tests = {"tests": program.tests}
    process = subprocess.Popen(
        isolation.command(limits.disk_bytes),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    )
    with process:
        try:
            output, _ = process.communicate(
                _frame(setup) + _frame(tests), timeout=limits.wall_seconds + _STARTING_SECONDS
            )
        finally:
            process.kill()
    return _first_frame(output[:_MAX_VERDICT_BYTES])


def _frame(message: object) -> bytes:
    content = json.dumps(message).encode()
    return len(content).to_bytes(4, "big") + content


def _first_frame(output: bytes) -> dict[str, Any] | None:
    length = int.from_bytes(output[:4], "big")
    if len(output) < 4 + length or not length:
        return None
    try:
        found = json.loads(output[4 : 4 + length])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _main() -> None:
    """Judge the program on stdin, a JSON object with the fields of `Program`: for looking at one by hand."""
    from finetune.evaluation.sandbox.isolation import find_isolation

    fields = json.load(sys.stdin)
    sys.stdout.write(json.dumps(asdict(run_program(Program(**fields), find_isolation()))) + "\n")


if __name__ == "__main__":
    _main()
