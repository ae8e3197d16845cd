"""What the trainer knows of a training besides weights and optimizer: the step under way, spikes, what is due."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune.training.loss_watch import LossWatch, Spike

if TYPE_CHECKING:
    import torch

COURSE = "course.json"
"""File of a checkpoint that holds a `Course`."""

_ROWS_NAMED = 8
"""Rows that a message names."""


@dataclass(slots=True)
class StepSoFar:
    """The micro-batches of the step under way on this process: their shares of the loss, and their examples."""

    losses: "list[torch.Tensor]" = field(default_factory=list)
    examples: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SpikeOfStep:
    """A spike, what became of its step, and the step's rows."""

    spike: Spike
    skipped: bool
    rows: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields of metrics.jsonl."""
        return {
            "spike_loss": self.spike.loss,
            "spike_limit": self.spike.limit,
            "skipped": self.skipped,
            "rows": self.rows,
        }


@dataclass(slots=True)
class Course:
    """What a checkpoint keeps of a training besides weights, optimizer and random states."""

    watch: LossWatch = field(default_factory=LossWatch)
    measurement_due: bool = False
    """Whether the step's validation loss was not measured, because a signal asked for an end."""
    unlogged_losses: list[float] = field(default_factory=list)
    """Sum of the losses since `logged_step`, by process."""
    logged_step: int = 0
    micro_batch_tokens: int | None = None
    """Size of the micro-batches, where memory was too small for training.micro_batch_tokens."""

    def to_json(self) -> dict[str, Any]:
        return {
            "losses": self.watch.losses,
            "measurement_due": self.measurement_due,
            "unlogged_losses": self.unlogged_losses,
            "logged_step": self.logged_step,
            "micro_batch_tokens": self.micro_batch_tokens,
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Course":
        return cls(
            LossWatch(content["losses"]),
            content["measurement_due"],
            content["unlogged_losses"],
            content["logged_step"],
            content["micro_batch_tokens"],
        )


def listed(rows: Sequence[str]) -> str:
    """Name the first rows, and say how many there are."""
    names = ", ".join(rows[:_ROWS_NAMED])
    return f"{len(rows)} rows ({names}, …)" if len(rows) > _ROWS_NAMED else f"rows {names}"
