"""Folders of checkpoints: staged, flushed and renamed, with a manifest of sizes and hashes; what is in them: states.py.

A checkpoint folder `step-00000100` is complete or absent. Called by the trainer and by `build` on resume.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune.errors import CheckpointError
from finetune.placing import placed, recover_all
from finetune.run import write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
BEST = "best"
BEST_ADAPTER = "best_adapter.safetensors"
"""The best adapter so far, in a checkpoint whose own adapter is another one."""
REASON = "REASON.txt"
ADAPTER = "adapter_model.safetensors"
ADAPTER_FILES = ("adapter_config.json", ADAPTER)
STATE_FILES = (*ADAPTER_FILES, "optimizer.safetensors", "optimizer.json", "random.json", "course.json", TRAINER_STATE)
"""What every checkpoint holds; without one of them a resumed run would silently be another one."""


def checkpoint_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write files into a staged folder, add the manifest, flush all to disk and rename it to `target`.

    Raises:
        OSError, SafetensorError: it cannot be written; `target` is as it was, and nothing else is left.
    """
    with placed(target) as staged:
        staged.mkdir()
        fill(staged)
        files = sorted(path for path in staged.rglob("*") if path.is_file())
        manifest = {
            str(path.relative_to(staged)): {"size": path.stat().st_size, "sha256": sha256(path)} for path in files
        }
        write_json(staged / MANIFEST, {"files": manifest})


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path, required: Sequence[str] = STATE_FILES) -> str | None:
    """Say what is wrong with a checkpoint folder, or return None for a valid one.

    Files that the manifest does not list are nobody's, and no damage.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {str(name): (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest.json is missing or damaged"
    for name in required:
        if name not in expected:
            return f"{name} is missing in its manifest.json"
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if sha256(path) != digest:
            return f"{name} has changed since it was written"
    if required is STATE_FILES and _needs_best(folder) and BEST_ADAPTER not in expected:
        return f"{BEST_ADAPTER} is missing in its manifest.json"
    return None


def _needs_best(checkpoint: Path) -> bool:
    """Whether the best adapter so far is another one than the checkpoint's own."""
    state = json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    return bool(state["best_global_step"]) and state["best_global_step"] != state["global_step"]


def newest_valid(checkpoints: Path) -> Path | None:
    """Return the newest valid checkpoint; damaged ones are set aside with the reason, so that they stand in no way."""
    recover_all(checkpoints)
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        reason = damage(folder)
        if reason is None:
            return folder
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        (aside / REASON).write_text(f"{reason}\n", encoding="utf-8")
        logger.warning("resume: %s is damaged (%s); set aside as %s", folder.name, reason, aside.name)
    return None


def remove_old(checkpoints: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; the best adapter lies in a folder of its own."""
    for folder in sorted(checkpoints.glob("step-*"))[:-keep]:
        # Renamed first: a kill in the middle of the deletion leaves no folder that looks like a damaged checkpoint.
        doomed = folder.with_name(f".{folder.name}.partial")
        folder.rename(doomed)
        shutil.rmtree(doomed)


def refuse_damaged_best(best: Path) -> None:
    """Check the best adapter so far before it is used.

    Raises:
        CheckpointError: it has been damaged since it was written.
    """
    reason = damage(best, ADAPTER_FILES)
    if reason is not None:
        raise CheckpointError(f"{best}: the best adapter so far is damaged ({reason}); resume=true makes it again")


def keep_best(best: Path, checkpoint: Path) -> None:
    """Copy the best adapter so far into a checkpoint that is being written.

    Raises:
        CheckpointError: it has been damaged since it was written.
    """
    refuse_damaged_best(best)
    shutil.copyfile(best / ADAPTER, checkpoint / BEST_ADAPTER)


def restore_best(checkpoint: Path) -> None:
    """Make `best/` again what it was when a checkpoint was written, whatever was measured after that."""
    source = checkpoint / (BEST_ADAPTER if _needs_best(checkpoint) else ADAPTER)

    def fill(folder: Path) -> None:
        shutil.copyfile(checkpoint / ADAPTER_FILES[0], folder / ADAPTER_FILES[0])
        shutil.copyfile(source, folder / ADAPTER)

    write_folder(checkpoint.parent / BEST, fill)
