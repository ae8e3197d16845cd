"""One process at a time writes to a run folder; called by `run.start_folder` and the jobs.

The lock is the system's own, on the folder itself: it leaves no file, and ends with the process, however that ends.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such lock
    fcntl = None

_held: dict[Path, int] = {}


def hold(folder: Path) -> bool:
    """Keep other processes out until `let_go`; return False where another one holds the folder."""
    if fcntl is None or folder in _held:
        return True
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:  # some network file systems know no locks
        os.close(handle)
        return True
    _held[folder] = handle
    return True


@contextlib.contextmanager
def let_go_of(folder: Path) -> Iterator[None]:
    """Let go of the folder at the end of the block, if it was held inside."""
    try:
        yield
    finally:
        handle = _held.pop(folder, None)
        if handle is not None:
            os.close(handle)
