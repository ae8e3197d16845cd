"""Room on the disk for checkpoints, and why a save failed. Called by the trainer, `build` and callbacks."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from finetune.errors import SaveError, one_line
from finetune.log import megabytes

WRITE_ERRORS = (OSError, SafetensorError)
"""What a write raises on a full or read-only disk; safetensors wraps the system's error."""

_STATE_BYTES = 400_000
"""Random states, course and histories of a checkpoint, as JSON; more in very long runs."""
_BYTES_PER_VALUE = 4
_COPIES = 4
"""A checkpoint holds the adapter, AdamW's two moments of it, and the best adapter so far, all in float32."""


def adapter_bytes(model: Any) -> int:
    """Return the size of the trained tensors as they are saved."""
    return _BYTES_PER_VALUE * sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)


def checkpoint_bytes(model: Any) -> int:
    """Return the size of one checkpoint at most, before there is any."""
    return _COPIES * adapter_bytes(model) + _STATE_BYTES


def check_room_for_run(folder: Path, model: Any, keep_checkpoints: int) -> None:
    """Check before the training that all it will save fits: the checkpoints kept, a new one, best and final adapter.

    Raises:
        SaveError: it does not; both figures are named.
    """
    each = checkpoint_bytes(model)
    needed = (keep_checkpoints + 1) * each + 3 * adapter_bytes(model) - _size_of(folder)
    free = _free(folder)
    if free < needed:
        raise SaveError(
            f"output_dir: checkpoints and adapter need {megabytes(needed)} more ({keep_checkpoints + 1} checkpoints of "
            f"{megabytes(each)}, training.keep_checkpoints={keep_checkpoints}), the disk of {folder.parent} has "
            f"{megabytes(free)} free; free some space, lower training.keep_checkpoints, or choose another output_dir=…"
        )


def check_room_for_checkpoint(folder: Path, model: Any) -> None:
    """Check that one more checkpoint fits before a byte of it is written.

    Raises:
        OSError: it does not (ENOSPC).
    """
    needed, free = checkpoint_bytes(model), _free(folder)
    if free < needed:
        text = f"it needs up to {megabytes(needed)}, the disk has {megabytes(free)} free"
        raise OSError(errno.ENOSPC, text, str(folder))


def reason_of(error: BaseException) -> str:
    """Say in a few words why a write failed."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return one_line(error)


def append(path: Path, text: str) -> None:
    """Append lines to a file, or leave it as it was.

    Raises:
        OSError: the lines cannot be written.
    """
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        if path.exists():
            os.truncate(path, size)
        raise


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
