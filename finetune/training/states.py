"""What a checkpoint holds, without pickle: adapter, optimizer, schedule and random states as safetensors and JSON.

Called by the trainer.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file

from finetune.errors import CheckpointError
from finetune.headers.safetensors import load_file
from finetune.run import write_json
from finetune.training.checkpoints import ADAPTER


def load_adapter_state(model: Any, folder: Path) -> None:
    """Put the adapter tensors of a checkpoint folder into a PeftModel of the same shape.

    Raises:
        CheckpointError: it has other tensors, or tensors of other shapes.
    """
    tensors = load_file(folder / ADAPTER)
    own = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    stored = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(own.keys() | stored.keys()):
        if own.get(name) != stored.get(name):
            raise CheckpointError(
                f"{folder}: its adapter is of another shape ({name}: {stored.get(name)} there, {own.get(name)} here), "
                "so the run cannot go on from it; give the adapter options that it was begun with, or overwrite=true"
            )
    set_peft_model_state_dict(model, tensors)


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
    """Restore AdamW's moments and the place in the schedule that `save_optimizer` wrote.

    Learning rate, schedule, decay and betas are those of the present configuration: the same as in the checkpoint,
    unless the user has named a change.

    Raises:
        CheckpointError: the state belongs to other parameters.
    """
    content = json.loads((folder / "optimizer.json").read_text(encoding="utf-8"))
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*load_file(folder / "optimizer.safetensors").items(), *content["scalars"].items()]:
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in groups] != [group["params"] for group in content["param_groups"]]:
        raise CheckpointError(f"{folder.name}: its optimizer state belongs to other parameters than this run's")
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    plain_scheduler = getattr(scheduler, "scheduler", scheduler)
    plain_scheduler.last_epoch = content["scheduler"]["last_epoch"]
    plain_scheduler._step_count = content["scheduler"]["_step_count"]
    rates = [
        base * share(plain_scheduler.last_epoch)
        for base, share in zip(plain_scheduler.base_lrs, plain_scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    plain_scheduler._last_lr = rates


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
    """Restore the generators of process `rank`; those of a process that is new keep their seed."""
    states = json.loads((folder / "random.json").read_text(encoding="utf-8"))
    if rank < len(states):
        RandomState(**states[rank]).restore()
