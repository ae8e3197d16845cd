"""The worst real step of a training: which micro-batch it is, what memory it should take, and what was measured.

`build` predicts and records it, the trainer tries it before step 0. Docs: docs/plan.md.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from finetune.data.examples import supervised_of
from finetune.log import megabytes
from finetune.model.hardware import peak_memory_bytes
from finetune.model.memory import CPU_PROCESS, CUDA_CONTEXT, Parts, training_parts
from finetune.model.planning import Setting
from finetune.model.recompute import recompute_first
from finetune.run import RunFolder, keep_in_versions
from finetune.training.steps import Steps

logger = logging.getLogger(__name__)

TIGHT = 0.5
"""On a CPU the worst step is tried first where it should take more than this share of the free memory."""
TOLERANCE = 0.10
"""A prediction that is off by more is told as a warning."""
_NOISE = 0.3e9
"""Bytes by which processes differ that load the same libraries: less is no error of a prediction on a CPU."""


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Examples that stand together, and how much they are."""

    numbers: list[int]
    tokens: int
    """Padding included."""
    supervised: int


def all_micro_batches(rows: Steps, capacity_tokens: int) -> Iterator[MicroBatch]:
    """Yield all micro-batches of an epoch, of all processes."""
    supervised = supervised_of(rows.examples)
    for share in rows.shares:
        for numbers in rows.micro_batches(share, capacity_tokens):
            lengths = [rows.lengths[number] for number in numbers]
            tokens = sum(lengths) if rows.packed else max(lengths) * len(lengths)
            yield MicroBatch(numbers, tokens, sum(supervised[number] for number in numbers))


def worst_of(rows: Steps, capacity_tokens: int, setting: Setting) -> MicroBatch:
    """Return the micro-batch of an epoch that takes the most memory; the same on every process."""
    found: dict[tuple[int, int], MicroBatch] = {}
    for batch in all_micro_batches(rows, capacity_tokens):
        found.setdefault((batch.tokens, batch.supervised), batch)
    return max(found.values(), key=lambda batch: parts_of(batch, setting).total)


def parts_of(batch: MicroBatch, setting: Setting) -> Parts:
    """Return what a step takes at its peak in this micro-batch."""
    share = min(1.0, batch.supervised / max(batch.tokens, 1))
    return training_parts(replace(setting.work, micro_batch_tokens=batch.tokens, supervised_share=share))


@dataclass(slots=True)
class Forecast:
    """What the worst step should take on this process's device, and what was measured."""

    setting: Setting
    device: torch.device
    folder: RunFolder
    before_bytes: int
    """The most memory that was in use before the training began."""
    held_bytes: int
    """What was in use when it began: the base model, and what else the process holds."""
    predicted_bytes: float = 0
    is_told: bool = False

    @classmethod
    def now(cls, setting: Setting, device: torch.device, folder: RunFolder) -> "Forecast":
        """Begin with the memory that is in use now."""
        return cls(setting, device, folder, peak_memory_bytes(device), _held_bytes(device))

    def predict(self, batch: MicroBatch) -> float:
        """Return the peak in this micro-batch as it can be measured, and keep it in versions.json.

        On CUDA it is what torch's allocator holds, without the context; on a CPU the whole process, of which other
        parts than this training's may be more than a training usually has.
        """
        parts = parts_of(batch, self.setting)
        if self.device.type == "cuda":
            self.predicted_bytes = parts.total - CUDA_CONTEXT
        else:
            growth = parts.total - parts.weights - CPU_PROCESS
            self.predicted_bytes = max(parts.total, self.held_bytes + growth)
        memory = {"predicted_bytes": round(self.predicted_bytes), "measured_bytes": None}
        whole = {name: round(size) for name, size in parts}
        self._keep(memory | {"parts": whole, "worst_tokens": batch.tokens, "worst_supervised": batch.supervised})
        return self.predicted_bytes

    def recompute_all(self, model: Any) -> None:
        """Let every layer of a PeftModel be recomputed, in a run that goes on from a checkpoint too."""
        layers = self.setting.work.shape.num_layers
        recompute_first(model.get_base_model(), layers)
        self.setting = self.setting.changed(layers=layers)
        self._keep({"recomputed_layers": layers})

    def is_worth_a_try(self) -> bool:
        """Whether the worst step is done once before the first: always on a GPU, on a CPU where memory may be short."""
        return self.device.type == "cuda" or self.predicted_bytes > TIGHT * self.setting.card.usable_bytes

    def compare(self, when: str) -> None:
        """Tell what was measured since the training began, once, and keep it in versions.json.

        Where the model's loading took more than the training, nothing was measured.
        """
        measured = peak_memory_bytes(self.device)
        if measured <= self.before_bytes or not self.predicted_bytes:
            return
        self._keep({"measured_bytes": measured})
        if self.is_told:
            return
        self.is_told = True
        error = self.predicted_bytes / measured - 1
        told = f"memory: {megabytes(measured)} {when}, predicted {megabytes(self.predicted_bytes)} ({error:+.0%})"
        logger.info("%s", told)
        difference = abs(self.predicted_bytes - measured)
        is_cuda = self.device.type == "cuda"
        if abs(error) > TOLERANCE and (is_cuda or difference > _NOISE):
            cure = f"plan.margin (now {self.setting.plan.margin:g}) spares room for it"
            cure = cure if is_cuda else "a fifth of a CPU's free memory is spared for it"
            logger.warning("memory: the prediction is off by %.0f %% here; %s (docs/plan.md)", 100 * abs(error), cure)

    def _keep(self, values: dict[str, Any]) -> None:
        keep_in_versions(self.folder, "memory", values)


def _held_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    import psutil

    return psutil.Process().memory_info().rss


def optimizer_state(weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return as much memory as AdamW's two moments will take."""
    return [torch.zeros_like(weight, dtype=torch.float32) for weight in weights for _ in range(2)]
