"""Checkpoints without pickle: safetensors and JSON, staged and renamed, with a manifest of sizes and hashes.

A checkpoint folder `step-00000100` is complete or absent. Called by the trainer and by `build` on resume.
"""

import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from finetune.errors import CheckpointError
from finetune.headers.safetensors import load_file
from finetune.run import write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
BEST = "best"


def checkpoint_name(step: int) -> str:
    """Return the folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write files into a staged folder, add the manifest, flush all to disk and rename it to `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    fill(staged)
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    manifest = {str(path.relative_to(staged)): {"size": path.stat().st_size, "sha256": sha256(path)} for path in files}
    write_json(staged / MANIFEST, {"files": manifest})
    for path in files:
        _flush(path)
    _flush(staged)
    if target.exists():
        shutil.rmtree(target)
    staged.rename(target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or return None for a valid one."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return "its manifest.json is missing or damaged"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['size']}"
        if sha256(path) != expected["sha256"]:
            return f"{name} has changed since it was written"
    return None


def newest_valid(checkpoints: Path) -> Path | None:
    """Return the newest valid checkpoint; damaged ones are set aside with the reason, so that they stand in no way."""
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        reason = damage(folder)
        if reason is None:
            return folder
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        logger.warning("resume: %s is damaged (%s); set aside as %s", folder.name, reason, aside.name)
    return None


def remove_old(checkpoints: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints; the best adapter lies in a folder of its own."""
    for folder in sorted(checkpoints.glob("step-*"))[:-keep]:
        shutil.rmtree(folder)


def save_optimizer(folder: Path, optimizer: Any, scheduler: Any) -> None:
    """Write the state of optimizer and schedule as safetensors and JSON."""
    state = optimizer.state_dict()
    tensors, scalars = {}, {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if torch.is_tensor(value):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous().clone()
            else:
                scalars[f"{index}.{name}"] = value
    save_file(tensors, folder / "optimizer.safetensors")
    content = {"param_groups": state["param_groups"], "scalars": scalars, "scheduler": scheduler.state_dict()}
    write_json(folder / "optimizer.json", content)


def load_optimizer(folder: Path, optimizer: Any, scheduler: Any) -> None:
    """Restore what `save_optimizer` wrote.

    Raises:
        CheckpointError: the state belongs to other parameters.
    """
    content = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*load_file(folder / "optimizer.safetensors").items(), *content["scalars"].items()]:
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = [{**group, "betas": tuple(group["betas"])} for group in content["param_groups"]]
    try:
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except ValueError as error:
        raise CheckpointError(f"{folder.name}: its optimizer state does not fit this run: {error}") from error
    scheduler.load_state_dict(content["scheduler"])


@dataclass(frozen=True, slots=True)
class RandomState:
    """The random number generators of one process: Python's, NumPy's, torch's on CPU and GPU."""

    python: Any
    numpy: Any
    torch_cpu: list[int]
    torch_cuda: list[int] | None

    @classmethod
    def capture(cls) -> "RandomState":
        numpy_state: Any = np.random.get_state()
        cuda = torch.cuda.get_rng_state().tolist() if torch.cuda.is_available() else None
        return cls(
            python=random.getstate(),
            numpy=[numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]],
            torch_cpu=torch.get_rng_state().tolist(),
            torch_cuda=cuda,
        )

    def restore(self) -> None:
        version, words, gauss = self.python
        random.setstate((version, tuple(words), gauss))
        name, keys, *rest = self.numpy
        np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(torch.tensor(self.torch_cpu, dtype=torch.uint8))
        if self.torch_cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(torch.tensor(self.torch_cuda, dtype=torch.uint8))

    def to_json(self) -> dict[str, Any]:
        return {
            "python": self.python,
            "numpy": self.numpy,
            "torch_cpu": self.torch_cpu,
            "torch_cuda": self.torch_cuda,
        }


def save_random_states(folder: Path, states: Sequence[dict[str, Any]]) -> None:
    """Write the generators of all processes, in the order of their ranks."""
    (folder / "random.json").write_text(json.dumps(states), encoding="utf-8")


def load_random_state(folder: Path, rank: int) -> None:
    """Restore the generators of process `rank`.

    Raises:
        CheckpointError: the checkpoint was written by fewer processes.
    """
    states = json.loads((folder / "random.json").read_text(encoding="utf-8"))
    if rank >= len(states):
        raise CheckpointError(
            f"{folder.name} was written by {len(states)} processes; resume with as many (this is process {rank})"
        )
    RandomState(**states[rank]).restore()
