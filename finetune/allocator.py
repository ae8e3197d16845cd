"""glibc's allocator as a training on a CPU wants it; `__main__` starts the process anew with the setting.

torch asks for every tensor at a multiple of 64 bytes. For that glibc cuts small pieces off both ends of a larger
block and hands them to the next small requests, which live on when the tensor is freed: the hole is then a little too
short for the next tensor of that size, and the heap grows, with every step. Without glibc's caches of small blocks the
pieces join the hole again. Only what glibc reads at its start can turn those caches off (glibc manual, "Tunables").
"""

import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence

VARIABLE = "GLIBC_TUNABLES"
TUNABLES = (
    "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0:"
    "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824"
)
"""No cache of freed small blocks, of a thread or of all. The heap serves blocks of up to 32 MiB, as it would come to by
itself, and keeps up to 1 GiB of its free end, so that no step asks for it anew."""
_OTHERS = ("MALLOC_", "LD_PRELOAD")
"""Beginnings of variables by which a user chooses or sets up an allocator; then nothing is changed."""
_TRAINING = ("run", "train")


def restart_with_tunables(words: Sequence[str], environment: MutableMapping[str, str] = os.environ) -> None:
    """Replace this process by the same command with `TUNABLES`, where it will train on a CPU; else do nothing.

    Called first of all, before anything is imported, written or held. `words` are those of the command line.
    """
    if not _is_command_line() or not _is_glibc() or not _will_train(words) or is_chosen(environment):
        return
    environment[VARIABLE] = TUNABLES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def is_chosen(environment: Mapping[str, str]) -> bool:
    """Whether an allocator has been set up already, by the user or by `restart_with_tunables`."""
    return bool(_choices(environment))


def allocator_in_use(environment: Mapping[str, str] = os.environ) -> str:
    """Say for the log how this process gets main memory, and why."""
    if environment.get(VARIABLE) == TUNABLES:
        return f"glibc's, without caches of small blocks, for less memory ({VARIABLE})"
    names = ", ".join(_choices(environment))
    return f"as {names} in the environment says" if names else "the system's"


def _choices(environment: Mapping[str, str]) -> list[str]:
    return [name for name in environment if name == VARIABLE or name.startswith(_OTHERS)]


def _is_command_line() -> bool:
    """Whether Python runs this package itself, not a script that would do its own work twice."""
    return sys.argv[0].endswith(("/finetune/__main__.py", "/finetune"))


def _will_train(words: Sequence[str]) -> bool:
    command = words[0] if words and "=" not in words[0] and not words[0].startswith("-") else "run"
    return command in _TRAINING and not {"--help", "-h", "--version", "--cfg", "-c"} & set(words)


def _is_glibc() -> bool:
    if sys.platform != "linux":
        return False
    try:
        return bool(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return False
