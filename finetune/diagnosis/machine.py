"""Disk, memory and the environment variables that decide about speed."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from finetune.diagnosis.finding import Finding, error, ok, warning
from finetune.evaluation.sandbox.isolation import probe_isolation
from finetune.log import megabytes
from finetune.model.hardware import container_limit_bytes

LEAST_DISK_BYTES = 500_000_000
"""Below this a run with the embedded model already fails."""
LEAST_MEMORY_BYTES = 2_000_000_000
"""What the libraries and a small model need."""
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")


def check_disk(output_dir: Path, num_model_bytes: int | None) -> Iterator[Finding]:
    """Check room and write permission where a run writes: `output_dir` and the folder for temporary files.

    `num_model_bytes` is the size of the merged model in 16 bits, None where no model is asked for.
    """
    yield _folder_finding("disk", output_dir.absolute(), "output_dir=…", num_model_bytes)
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as problem:
        yield error("temporary", str(problem), "set TMPDIR to a folder that can be written")
        return
    yield _folder_finding("temporary", temporary, "TMPDIR=…", None)


def _folder_finding(subject: str, folder: Path, option: str, num_model_bytes: int | None) -> Finding:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    elsewhere = f"name another folder with {option}"
    if not existing.is_dir():
        return error(subject, f"{existing} is a file", elsewhere)
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x" * 4096)
            file.flush()
    except OSError as problem:
        return error(subject, f"{existing} cannot be written: {problem.strerror}", elsewhere)
    free = shutil.disk_usage(existing).free
    found = f"{megabytes(free)} free in {folder}"
    if free < LEAST_DISK_BYTES:
        return error(subject, f"{found}, too little for any run", f"make room, or {elsewhere}")
    if num_model_bytes is not None and free < num_model_bytes + LEAST_DISK_BYTES:
        need = f"the merged model alone takes {megabytes(num_model_bytes)} in 16 bits"
        return warning(subject, f"{found}; {need}", f"make room, or {elsewhere}")
    if _file_system(existing) in _MEMORY_FILE_SYSTEMS:
        return warning(subject, f"{found}, which lies in memory and is gone after a restart", elsewhere)
    return ok(subject, f"{found}, can be written")


def _file_system(folder: Path) -> str:
    import psutil

    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    real = folder.resolve()
    return next((mounts[place] for place in (real, *real.parents) if place in mounts), "")


def check_memory() -> Iterator[Finding]:
    """Check free memory and swap; the limit of a container counts."""
    import psutil

    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    total, available = memory.total, memory.available
    limit = container_limit_bytes()
    where = ""
    if limit is not None and limit < total:
        available = min(available, max(limit - psutil.Process().memory_info().rss, 0))
        total, where = limit, " (limit of this container)"
    found = f"{megabytes(available)} of {megabytes(total)} available{where}"
    more = "end other programs, or use a machine with more memory"
    yield warning("memory", found, more) if available < LEAST_MEMORY_BYTES else ok("memory", found)
    if not swap.total:
        yield ok("swap", "none: a run that needs more memory than there is will be ended by the system")
    elif swap.used > swap.total / 2:
        used = f"{megabytes(swap.used)} of {megabytes(swap.total)} in use, which makes a run many times slower"
        yield warning("swap", used, more)
    else:
        yield ok("swap", f"{megabytes(swap.used)} of {megabytes(swap.total)} in use")


def check_sandbox() -> Iterator[Finding]:
    """Check whether code that a model writes could be run here; it is run only where the user allows it."""
    isolation, reason = probe_isolation()
    if isolation is not None:
        yield ok("sandbox", f"generated code can be shut in ({isolation.kind}); evaluation.run_code=true would run it")
    else:
        yield warning("sandbox", f"evaluation.run_code=true would be refused: {reason}", "leave it off, as it is")


def check_threads(environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Check the variables that slow arithmetic down."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    problems = list(_slow_variables(environment, num_cores))
    yield from problems
    if not problems:
        yield ok("processor", f"{num_cores} cores for this process")


def _slow_variables(environment: Mapping[str, str], num_cores: int) -> Iterator[Finding]:
    if environment.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        spinning = "OMP_WAIT_POLICY=ACTIVE: threads wait by spinning, up to thirty times slower beside other programs"
        yield warning("processor", spinning, "unset OMP_WAIT_POLICY")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        value = environment.get(name, "")
        if value.isdigit() and int(value) > num_cores:
            text = f"{name}={value}, but this process may use {num_cores} cores"
            yield warning("processor", text, f"unset {name}, or set it to {num_cores}")
    if environment.get("CUDA_LAUNCH_BLOCKING") == "1":
        text = "CUDA_LAUNCH_BLOCKING=1: every kernel is waited for"
        yield warning("processor", text, "unset CUDA_LAUNCH_BLOCKING unless you look for an error on the GPU")
