"""A micro-batch that does not fit into memory: half its size, and the step once more; used by the trainer."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from finetune.config import AdapterConfig, TrainingConfig
from finetune.errors import ResourceError


class StartAgain(Exception):
    """No checkpoint is there yet: the run is done again from its start, as if it had begun with the smaller size."""


@dataclass(frozen=True, slots=True)
class Generators:
    """The states of the random number generators of this process at one moment."""

    python: Any
    numpy: Any
    torch_cpu: torch.Tensor
    torch_cuda: torch.Tensor | None

    @classmethod
    def capture(cls) -> "Generators":
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda)

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda is not None:
            torch.cuda.set_rng_state(self.torch_cuda)


def halved(tokens: int, longest: int, doing: str, training: TrainingConfig, adapter: AdapterConfig) -> int:
    """Return the next smaller size of a micro-batch, in tokens.

    Raises:
        ResourceError: it holds one row alone already; naming what takes less memory.
    """
    if tokens > longest:
        return max(tokens // 2, longest)
    cures = [f"lower training.max_length (now {training.max_length})"]
    if training.gradient_checkpointing is False:  # `auto` recomputes all layers by now
        cures.append("set training.gradient_checkpointing=true")
    cures.append("hold the base in 4 bits (quantization=nf4)")
    cures.append(f"lower adapter.rank (now {adapter.rank})")
    raise ResourceError(
        f"out of memory {doing}, with micro-batches of one row of {longest} tokens: {', '.join(cures)}, take a smaller "
        "model, or end other programs that use this memory"
    )
