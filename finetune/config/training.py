"""Section `training`: steps, schedule, memory, checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass

from finetune.config.checks import at_least, positive
from finetune.config.values import AUTO, MISSING, OnLossSpike, OnSaveError, Schedule


@dataclass(kw_only=True, slots=True)
class TrainingConfig:
    """Optimizer, schedule, batch and checkpoints."""

    learning_rate: float = MISSING
    """Peak learning rate."""
    num_epochs: float = 3.0
    """Passes over the training rows, unless max_steps is set."""
    max_steps: int | None = None
    """Optimizer steps; None derives them from num_epochs."""
    max_length: int = MISSING
    """Longest document in tokens; longer costs memory."""
    micro_batch_tokens: int | str = MISSING
    """Most tokens per forward pass and process, at least the longest row; more costs memory. `auto` takes what is
    fastest within the free memory. Changes speed and memory only: what a step learns from is the same. Halved by itself
    where memory turns out too small."""
    batch_tokens: int = MISSING
    """Most tokens per optimizer step over all processes, at least one row of max_length for each."""
    packing: bool = True
    """Put several documents into one row; attention never crosses from one to another."""
    schedule: Schedule = Schedule.cosine
    """Course of the learning rate after the warm-up, down to zero."""
    warmup_share: float = 0.03
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """AdamW's decay of the adapter weights."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    adam_beta2: float = 0.999
    """AdamW's decay of the squared gradient; lower adapts faster in short runs."""
    gradient_checkpointing: bool | str = "auto"
    """Recompute activations in the backward pass: about 40 % slower, far less memory. `auto` recomputes just as many
    layers as the free memory makes necessary; the gradients are the same."""
    logging_steps: int = 10
    """Steps between two lines of metrics.jsonl."""
    eval_steps: int | None = None
    """Steps between two measurements of the validation loss; None measures about ten times a run."""
    max_validation_tokens: int = 100_000
    """Tokens of validation rows that a measurement reads at most, so that large sets do not slow the training."""
    save_steps: int | None = None
    """Steps between two checkpoints; None saves at each measurement."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep, besides the best."""
    early_stopping_patience: int | None = None
    """Stop after so many measurements without a better validation loss; None never stops early."""
    on_loss_spike: OnLossSpike = OnLossSpike.warn
    """A step's loss far (6 standard deviations of the last 128 steps) above them: `warn`, `skip` it, or `stop`."""
    on_save_error: OnSaveError = OnSaveError.stop
    """A checkpoint cannot be written: `stop` the run, or `warn` and go on; either way the last good one stays."""

    def problems(self) -> Iterator[str]:
        """Name each value that cannot work."""
        yield from positive("training.learning_rate", self.learning_rate, zero=True)
        yield from positive("training.num_epochs", self.num_epochs)
        for name in ("max_steps", "eval_steps", "save_steps", "early_stopping_patience"):
            value = getattr(self, name)
            if value is not None:
                yield from at_least(f"training.{name}", value, 1)
        for name in ("logging_steps", "keep_checkpoints", "max_validation_tokens"):
            yield from at_least(f"training.{name}", getattr(self, name), 1)
        yield from at_least("training.max_length", self.max_length, 8)
        if not isinstance(self.micro_batch_tokens, str):
            yield from at_least("training.micro_batch_tokens", self.micro_batch_tokens, 8)
        elif self.micro_batch_tokens != AUTO:
            yield f"training.micro_batch_tokens: {self.micro_batch_tokens!r} is neither a whole number nor auto"
        if isinstance(self.gradient_checkpointing, str) and self.gradient_checkpointing != AUTO:
            yield f"training.gradient_checkpointing: {self.gradient_checkpointing!r} is neither true, false nor auto"
        yield from at_least("training.batch_tokens", self.batch_tokens, 8)
        if not 0 <= self.warmup_share < 1:
            yield f"training.warmup_share: {self.warmup_share} is not in [0, 1)"
        yield from positive("training.max_grad_norm", self.max_grad_norm)
        yield from positive("training.weight_decay", self.weight_decay, zero=True)
        if not 0 < self.adam_beta2 < 1:
            yield f"training.adam_beta2: {self.adam_beta2} is not in (0, 1)"
